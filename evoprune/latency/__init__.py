"""Latencies of layers and of whole networks."""
