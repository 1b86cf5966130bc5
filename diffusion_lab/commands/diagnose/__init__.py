"""Measure a model's denoising error by noise level and its memorisation of training images."""
