"""Which genomes to try next."""
