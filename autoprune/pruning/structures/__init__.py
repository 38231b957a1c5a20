"""What a pattern finds in a network to remove: coupled channels, residual branches, parts of single weights."""
