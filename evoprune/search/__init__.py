"""The search: it chooses the genomes to try next."""
