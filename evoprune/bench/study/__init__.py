"""Studies: pruning methods compared on trained networks, over seeds and cost targets."""
