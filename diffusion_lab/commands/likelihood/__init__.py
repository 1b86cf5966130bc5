"""Measure the likelihood of images under a run."""
