"""Searching a network, and checking that its masked and its compacted forms agree."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.discovery.proof import relative_difference
from evoprune.space.search_space import SearchSpace


def searched(model: nn.Module, *inputs: Tensor, keeps: tuple[float, ...] = (0.0, 0.3, 0.5, 0.8)) -> SearchSpace:
    """The search space of a network, the same twice; outputs agree to 1e-12 in float64, and the cost is what is left.

    Args:
        model: The network, in any mode.
        inputs: The example inputs, float32 or integers.
        keeps: Shares of maps that the tried genomes keep.
    """
    model = model.eval()
    space = ep.search_space(model, inputs)
    assert ep.search_space(model, inputs).to_dict() == space.to_dict()
    assert SearchSpace.from_dict(space.to_dict()).to_dict() == space.to_dict()
    exact = copy.deepcopy(model).double()
    others = tuple(torch.randn(x.shape, dtype=torch.float64) if x.is_floating_point() else x for x in inputs)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        whole = exact(*others)
        assert relative_difference(whole, ep.compact(exact, space, space.full())(*others)) == 0
        for keep in keeps:
            genome = space.random(rng, keep)
            small = ep.compact(exact, space, genome)
            outputs = small(*others)
            assert relative_difference(ep.mask(exact, space, genome)(*others), outputs) <= 1e-12
            assert relative_difference(whole, outputs) > 1e-6  # the removed maps meant something
            assert ep.cost(space, genome).params == sum(parameter.numel() for parameter in small.parameters())
    return space


def groups_of(space: SearchSpace) -> dict[tuple[str, ...], int]:
    """Layers of each group -> number of genes."""
    return {group.layers: group.size for group in space.groups}


def reasons_of(space: SearchSpace) -> dict[str, str]:
    """Name of each part that stays whole -> reason."""
    return {part.name: part.reason for part in space.frozen}
