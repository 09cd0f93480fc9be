"""A package of somebody else: a method, a data set's layout and a synthesizer for adbench."""
