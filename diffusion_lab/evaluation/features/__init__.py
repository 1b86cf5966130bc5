"""Feature extractors, and what real images score in their features."""
