"""GLASS: a discriminator trained on global and local synthetic anomalies (papers/000)."""
