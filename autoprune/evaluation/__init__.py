"""Evaluation of candidates: from a candidate to a trial, sensitivity sweeps, checkpoints, training under a schedule."""
