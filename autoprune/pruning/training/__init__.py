"""Pruning while a network trains: gradual masks, and penalties that lead to sparsity."""
