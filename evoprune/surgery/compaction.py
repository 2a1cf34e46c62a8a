"""Compaction: the speed. A copy of the network without what a genome removes."""

from torch import nn

from evoprune.space.plan import Genome, SearchSpace
from evoprune.space.slicing import copied, cut


def compact(model: nn.Module, space: SearchSpace, genome: Genome) -> nn.Module:
    """A copy of the network that is physically smaller: an ordinary module, equal in outputs to the masked one.

    Raises SearchSpaceError where the genome or the network is not of this search space.
    """
    small = copied(model)
    cut(small, space, genome)
    return small
