"""Callbacks that save checkpoints, and what belongs into one."""
