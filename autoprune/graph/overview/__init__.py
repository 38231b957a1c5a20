"""Overview of a network's groups: what they are, what they cost, and why the rest stays."""
