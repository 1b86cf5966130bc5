"""Benchmarks of speed and memory, measured in alternation with plain baselines.

This file imports nothing, because some benchmarks time child processes from their start, and an
import here would add to the measured time.
"""
