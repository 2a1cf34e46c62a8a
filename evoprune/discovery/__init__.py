"""From a network to its search space, proved on the network."""
