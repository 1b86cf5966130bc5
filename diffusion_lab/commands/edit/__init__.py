"""Edit images with a trained run."""
