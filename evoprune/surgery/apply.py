"""A genome applied to a network: masked (equal shapes, with zeros) or compacted (smaller shapes)."""

from torch import nn

from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied, cut, zero
from evoprune.surgery.compensation import compensate
from evoprune.surgery.layer_statistics import Statistics


def mask(model: nn.Module, space: SearchSpace, genome: Genome, statistics: Statistics | None = None) -> nn.Module:
    """A copy of the network with equal shapes in which the removed parts contribute nothing.

    Args:
        model: The network that the search space was made from; not changed.
        space: Its search space.
        genome: uint8 (genes,).
        statistics: Of `ep.gram_statistics`: the weights that stay then take over the removed contributions in closed
            form. Batch-norm statistics stay as they are; take them again on calibration images afterwards.

    Returns:
        A module whose outputs are those of `ep.compact`, up to rounding.

    Raises:
        SearchSpaceError: If the genome or the network is not of this search space.

    Example:
        >>> masked = ep.mask(model, space, genome)
        >>> masked(images)  # as of ep.compact(model, space, genome)
    """
    masked = _compensated(model, space, genome, statistics)
    zero(masked, space, genome)
    return masked


def compact(model: nn.Module, space: SearchSpace, genome: Genome, statistics: Statistics | None = None) -> nn.Module:
    """A copy of the network that is physically smaller: an ordinary module without the removed parts.

    Args:
        model: The network that the search space was made from; not changed.
        space: Its search space.
        genome: uint8 (genes,).
        statistics: As of `ep.mask`.

    Returns:
        A module whose outputs are those of `ep.mask`, up to rounding.

    Raises:
        SearchSpaceError: If the genome or the network is not of this search space.

    Example:
        >>> small = ep.compact(model, space, genome)
        >>> sum(parameter.numel() for parameter in small.parameters()) == ep.cost(space, genome).params
        True
    """
    small = _compensated(model, space, genome, statistics)
    cut(small, space, genome)
    return small


def _compensated(model: nn.Module, space: SearchSpace, genome: Genome, statistics: Statistics | None) -> nn.Module:
    """A copy of the network, compensated for the parts that are to be removed if there are statistics."""
    copy = copied(model)
    if statistics is not None:
        compensate(copy, space, genome, statistics)
    return copy
