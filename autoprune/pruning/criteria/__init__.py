"""Criteria: scores of structures, the higher ones are kept; one file for each family."""
