"""Callbacks that sample during training, with a limit on their fraction of the time."""
