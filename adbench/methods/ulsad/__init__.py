"""ULSAD: feature reconstruction and an attention-supervised global autoencoder."""
