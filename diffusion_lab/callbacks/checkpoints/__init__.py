"""Callbacks that save checkpoints, or add entries to every checkpoint."""
