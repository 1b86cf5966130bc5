"""Latents: images encoded by a variational autoencoder (VAE), and decoded after sampling."""
