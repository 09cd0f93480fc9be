"""Models of the package anomalib under our data, weights, protocol and metrics."""
