"""Masking: what a genome means. A copy of the network with everything removed set to zero."""

from torch import nn

from evoprune.space.plan import Genome, SearchSpace
from evoprune.space.slicing import copied, zero


def mask(model: nn.Module, space: SearchSpace, genome: Genome) -> nn.Module:
    """A copy of the network, every shape as it was, in which what the genome removes contributes nothing.

    Raises SearchSpaceError where the genome or the network is not of this search space.
    """
    masked = copied(model)
    zero(masked, space, genome)
    return masked
