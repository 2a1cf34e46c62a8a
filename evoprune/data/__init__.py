"""Images and their splits."""
