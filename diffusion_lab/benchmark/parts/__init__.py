"""Measurements of the benchmark, one per file."""
