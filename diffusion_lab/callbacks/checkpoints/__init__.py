"""Callbacks that save checkpoints and add to their contents."""
