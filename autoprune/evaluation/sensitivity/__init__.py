"""The sensitivity sweep: one group at a time, level by level."""
