"""What the benchmark measures, one thing a file."""
