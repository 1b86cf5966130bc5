"""Feature extractors and reference features of real images."""
