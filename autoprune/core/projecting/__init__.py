"""Allocations moved onto the limits of a budget."""
