"""Genes, and what is left of a network under a genome: plain data."""
