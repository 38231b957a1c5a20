"""Data sets that come with a task of their own."""
