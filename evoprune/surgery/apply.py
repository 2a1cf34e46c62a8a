"""A genome applied to a network: masked (the same shapes, with zeros) or compacted (smaller shapes)."""

from torch import nn

from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied, cut, zero
from evoprune.surgery.compensation import Statistics, compensate


def mask(model: nn.Module, space: SearchSpace, genome: Genome, statistics: Statistics | None = None) -> nn.Module:
    """A copy of the network, every shape as it was, in which what the genome removes contributes nothing.

    statistics: of `gram_statistics`; the weights that stay then take over what was removed (`compensation`). Batch norm
    is left as it was (`recalibrate` takes its statistics anew).
    Raises SearchSpaceError where the genome or the network is not of this search space.
    """
    masked = copied(model)
    if statistics is not None:
        compensate(masked, space, genome, statistics)
    zero(masked, space, genome)
    return masked


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
