"""Floor 4: reads what runs recorded: tables and plots."""
