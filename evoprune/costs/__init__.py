"""Costs that a search can minimise."""
