"""GAA: from a few real defects, many aligned pairs of image and mask, and their use."""
