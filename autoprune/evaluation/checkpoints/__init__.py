"""Pruned networks as files: written, read, rebuilt, exported, described."""
