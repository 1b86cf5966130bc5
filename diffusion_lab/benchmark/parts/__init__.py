"""Measurements of the benchmark, and the modules that their child processes run."""
