"""Only so that `python -m docs.generate` is found; not part of the wheel."""
