"""PaDiM: a Gaussian of patch features at every position."""
