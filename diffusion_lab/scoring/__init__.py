"""Sample images from a run, or read them from a file, and score them over several seeds."""
