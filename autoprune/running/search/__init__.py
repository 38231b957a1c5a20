"""A search from its start or resumption to its results."""
