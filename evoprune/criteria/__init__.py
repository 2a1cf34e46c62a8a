"""How important each part of a network is."""
