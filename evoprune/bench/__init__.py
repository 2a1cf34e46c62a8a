"""Measurements over many networks and against other tools."""
