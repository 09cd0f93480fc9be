"""Latent diffusion that GLAD and GAA share: autoencoders, base models, DDIM."""
