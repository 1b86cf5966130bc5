"""Benchmarks of speed and memory against plain baselines, measured alternately.

Nothing is imported here, because child processes are timed from their start.
"""
