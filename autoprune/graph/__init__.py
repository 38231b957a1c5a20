"""Floor 1: reads networks: which channels belong together, what each layer costs; changes nothing."""
