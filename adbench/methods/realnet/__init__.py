"""RealNet: selected features, their reconstructions, selected residuals, one discriminator."""
