"""From what a search found to a smaller network."""
