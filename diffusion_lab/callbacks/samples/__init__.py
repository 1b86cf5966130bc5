"""Callbacks that sample during training, within a fraction of the training time."""
