"""`autoprune train`: a training by a schedule in a folder of its own, which can be resumed."""
