"""Sampling of images with a trained module, a sampler, class labels and guidance."""
