"""Texts in files, as tasks."""
