"""Sampling of images with a module, a sampler and conditioning."""
