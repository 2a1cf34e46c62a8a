"""A cost of one's own: the energy of an image, by a look-up table of kinds of layers. See energy.yaml."""

from typing import Any

import evoprune as ep

PICOJOULES_A_MAC = {"convolution": 1.5, "transposed convolution": 1.5, "linear": 1.5}
"""A multiplication and an addition of 16-bit floats at 45 nm."""

PICOJOULES_A_WEIGHT = {"convolution": 5.0, "transposed convolution": 5.0, "linear": 640.0}
"""Reading a weight once an image: from a small on-chip memory, or, for the large linear layers, from DRAM."""


class Energy(ep.CostModel):
    """Energy of one image, by the kind of each layer: multiply-accumulates, and weights that are read.

    References:
        Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014 (the orders of magnitude).
    """

    name = "energy"
    unit = "nJ"

    def of(self, space: ep.SearchSpace, phenotype: Any) -> float:
        """The cost of the network that a genome leaves."""
        layers = ep.remaining_layers(space, phenotype)
        arithmetic = sum(PICOJOULES_A_MAC[layer.kind] * layer.macs for layer in layers)
        memory = sum(PICOJOULES_A_WEIGHT[layer.kind] * layer.weights for layer in layers)
        return (arithmetic + memory) / 1000
