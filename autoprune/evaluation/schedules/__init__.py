"""Trainings by a schedule file: what is pruned, by which pruner and penalty, and when."""
