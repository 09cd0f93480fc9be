"""GLAD: reconstruction by a latent diffusion model with adaptive steps."""
