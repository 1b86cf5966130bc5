"""Sample from a run, or read images, and score them over several seeds."""
