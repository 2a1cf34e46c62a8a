"""The experiment's schema: read, checked and explained."""
