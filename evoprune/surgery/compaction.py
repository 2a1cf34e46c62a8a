"""Compaction: the speed. A copy of the network without what a genome removes."""

from torch import nn

from evoprune.space.plan import Genome, SearchSpace
from evoprune.space.slicing import copied, cut
from evoprune.surgery.compensation import Statistics, compensate


def compact(model: nn.Module, space: SearchSpace, genome: Genome, statistics: Statistics | None = None) -> nn.Module:
    """A copy of the network that is physically smaller: an ordinary module, equal in outputs to the masked one.

    statistics: of `gram_statistics`; the weights that stay then take over what was removed (`compensation`). Batch norm
    is left as it was (`recalibrate` takes its statistics anew).
    Raises SearchSpaceError where the genome or the network is not of this search space.
    """
    small = copied(model)
    if statistics is not None:
        compensate(small, space, genome, statistics)
    cut(small, space, genome)
    return small
