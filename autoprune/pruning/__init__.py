"""Floor 2: chooses what goes, sets it to zero, removes it."""
