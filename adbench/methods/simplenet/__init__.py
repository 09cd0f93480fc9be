"""SimpleNet: a discriminator of normal features and of the same with noise."""
