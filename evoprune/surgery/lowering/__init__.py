"""Kernel-stride and kernel masks turned into smaller dense convolutions."""
