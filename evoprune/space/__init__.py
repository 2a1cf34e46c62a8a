"""What may go: genes, groups, and what is left under a genome."""
