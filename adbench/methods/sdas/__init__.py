"""SDAS: a diffusion model of normal images that draws near-normal ones of a chosen strength."""
