"""Callbacks that log losses, speed and progress."""
