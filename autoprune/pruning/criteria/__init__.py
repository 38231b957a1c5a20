"""Scores of structures: higher is kept."""
