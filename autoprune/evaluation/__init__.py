"""Floor 3: judges candidates and writes what became of them."""
