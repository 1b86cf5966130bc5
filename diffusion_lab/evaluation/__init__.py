"""Metrics of generated images, without Lightning and Hydra."""
