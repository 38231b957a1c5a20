"""Floor 1: who proposes what to try next; knows nothing of torch, files or processes."""
