"""Networks, data sets and training."""
