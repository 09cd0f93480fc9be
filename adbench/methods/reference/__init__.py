"""Reference: median and deviation of every pixel, the floor of any figure."""
