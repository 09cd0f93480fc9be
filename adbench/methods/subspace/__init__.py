"""Subspace: what principal components of normal patch features leave unexplained."""
