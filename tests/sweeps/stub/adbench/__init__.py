"""Stands where a cell's process looks for adbench: `train` without torch."""
