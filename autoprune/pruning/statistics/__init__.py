"""What criteria and reconstruction learn by running samples through a network."""
