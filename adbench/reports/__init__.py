"""What was published, what we measured, and how both are shown."""
