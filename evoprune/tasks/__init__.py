"""Tasks: the worth of a network's outputs."""
