"""The influence of groups on the outputs: a proof sees nothing of a group on which the outputs do not depend."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.discovery.tracing import tensors_of
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import named_tensors, replace_tensors

LEAST_INFLUENCE = 1e-9
"""Least change of the outputs, as a share of their scale, in which a proof surely sees a fault."""

UNSEEN = (
    "the outputs on the example input depend too little on it to prove it; give trained weights, or an example of real "
    "images"
)


@dataclass(frozen=True)
class Unseen:
    """Groups of which a proof on the example sees too little, by name.

    Attributes:
        faint: A change of them moves the outputs by less than `LEAST_INFLUENCE`, so that a fault could hide.
        idle: The outputs do not depend on them at all on this example, as on an image of zeros.
    """

    faint: frozenset[str]
    idle: frozenset[str]


def unseen_groups(network: nn.Module, space: SearchSpace, inputs: tuple[Any, ...]) -> Unseen:
    """The groups on which the outputs depend too little, to first order, for a proof to see anything.

    Args:
        network: A copy in float32, in eval mode; it is changed. Gradients are as small as they are, in any type.
        space: The plan.
        inputs: Of the network, in its type.

    Returns:
        Of the groups that take part in the pass; none if it has no gradients.
    """
    shares = _shares(network, {axis.tensor for axis in space.axes}, inputs)
    influence, seen = np.zeros(space.maps), np.zeros(space.maps, dtype=bool)
    for axis in space.axes:
        if axis.tensor in shares:
            share = shares[axis.tensor].movedim(axis.dim, 0)
            change = share.reshape(len(share), -1).sum(1).abs().double().numpy()
            change[np.isnan(change)] = np.inf  # softmax behind a mask has no gradient, and leaves the influence open
            positions = np.flatnonzero(axis.gene >= 0)
            np.maximum.at(influence, axis.gene[positions], change[positions])
            seen[axis.gene[positions]] = True
    largest = {group.name: influence[group.genes].max() for group in space.groups if seen[group.genes].any()}
    return Unseen(
        faint=frozenset(name for name, change in largest.items() if 0 < change < LEAST_INFLUENCE),
        idle=frozenset(name for name, change in largest.items() if change == 0),
    )


def _shares(network: nn.Module, names: Set[str], inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """Each weight times the gradient of the outputs by it: what its removal changes, to first order.

    Args:
        network: Its weights are replaced by others that take gradients.
        names: Of the weights.
        inputs: Of the network.

    Returns:
        By name, of the weights that take part in the pass.
    """
    leaves = {
        name: tensor.detach().requires_grad_(True)
        for name, tensor in named_tensors(network)
        if name in names and tensor.is_floating_point()
    }
    replace_tensors(network, leaves)
    weights = {name: tensor for name, tensor in named_tensors(network) if name in leaves}
    try:
        with torch.enable_grad():
            total = _mixed(network(*inputs))
        gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    except Exception:  # of the user's forward: operations without gradients, or changes in place
        return {}
    found = zip(weights, gradients, strict=True)
    return {name: gradient.mul_(weights[name].detach()) for name, gradient in found if gradient is not None}


def _mixed(outputs: Any) -> Tensor:
    """A random sum of all outputs, each divided by its scale."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(())
    for output in tensors_of(outputs):
        if output.is_floating_point() and output.numel():
            weights = torch.randn(output.shape, generator=generator, dtype=output.dtype)
            scale = output.detach().abs().max().clamp_min(torch.finfo(output.dtype).tiny)
            total = total + (weights * output).sum() / scale
    return total
