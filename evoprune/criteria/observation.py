"""Feature maps as their readers are given them, image by image, and the gradients that come back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.criteria.importance import LayerValues
from evoprune.space.plan import Layer
from evoprune.space.search_space import SearchSpace

BATCH_SIZE = 32
"""Images a pass: all maps of a network are held at once."""

Objective = Callable[[Tensor, slice], Tensor]
"""What is differentiated: a scalar, a sum over images, of logits (b, classes) and the places of those images."""

Inner = Callable[[Tensor, Tensor], Tensor]
"""(activations, gradients) -> values, all (b, positions, pixels). Gradients are empty where there is no objective."""

Outer = Callable[[Tensor, Tensor], Tensor]
"""(sums over a map's pixels (b, maps), how many pixels each has (maps,)) -> values (b, maps)."""


@dataclass(eq=False)
class _Reader:
    """A layer that reads maps which may go. gene: int64 (positions,), of its input. seen: its inputs in a pass."""

    module: nn.Module
    gene: np.ndarray
    seen: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        movable = self.gene >= 0
        self.positions = torch.from_numpy(np.flatnonzero(movable))
        self.genes, place = np.unique(self.gene[movable], return_inverse=True)
        self.place = torch.from_numpy(place)

    def observe(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A forward pre-hook. The layer goes on with a copy, whose gradient is what comes back by this way alone."""
        own = args[0].clone()
        if torch.is_grad_enabled() and not own.requires_grad:
            own.requires_grad_()
        self.seen.append(own)
        return (own, *args[1:])

    def maps(self, values: Tensor) -> Tensor:
        """(b, positions that may go, pixels) of a tensor of the layer's input."""
        maps = values.movedim(-1, 1) if isinstance(self.module, nn.Linear) else values
        return maps.flatten(2) if maps.dim() > 2 else maps[:, :, None]


def observe(
    network: nn.Module,
    space: SearchSpace,
    images: Tensor,
    inner: Inner,
    outer: Outer,
    objective: Objective | None = None,
) -> list[LayerValues]:
    """The mean over images of `outer` of the sum over pixels of `inner`, for the maps that each layer reads.

    network: in eval mode, its parameters taking gradients, on the images' device. A map is what the next layer is
    given: after batch norm, activation and pooling; several positions of it (behind a flattening) count as pixels.
    Layers that are no modules, and grouped ones, are not watched.
    """
    readers = [_Reader(network.get_submodule(layer.name), gene) for layer, gene in _watched(network, space)]
    handles = [reader.module.register_forward_pre_hook(reader.observe) for reader in readers]
    totals = [np.zeros(len(reader.genes)) for reader in readers]
    try:
        for start in range(0, len(images), BATCH_SIZE):
            places = slice(start, min(start + BATCH_SIZE, len(images)))
            with torch.set_grad_enabled(objective is not None):
                logits = network(images[places])
                gradients = _gradients(readers, None if objective is None else objective(logits, places))
            for reader, total, given in zip(readers, totals, gradients, strict=True):
                total += _of_reader(reader, given, inner, outer)
                reader.seen.clear()
    finally:
        for handle in handles:
            handle.remove()
    return [LayerValues(reader.genes, total / len(images)) for reader, total in zip(readers, totals, strict=True)]


def _gradients(readers: Sequence[_Reader], target: Tensor | None) -> list[list[Tensor]]:
    """For each reader the gradient of each of its inputs; empty tensors without a target."""
    if target is None:
        return [[seen.new_empty(0) for seen in reader.seen] for reader in readers]
    inputs = [seen for reader in readers for seen in reader.seen]
    found = iter(torch.autograd.grad(target, inputs, allow_unused=True, materialize_grads=True))
    return [[next(found) for _ in reader.seen] for reader in readers]


@torch.no_grad()
def _of_reader(reader: _Reader, gradients: Sequence[Tensor], inner: Inner, outer: Outer) -> np.ndarray:
    """The sum over a pass's images for each of the reader's genes. Returns float64 (genes,)."""
    if not reader.seen:
        return np.zeros(len(reader.genes))
    sums = torch.zeros(len(reader.seen[0]), len(reader.genes), dtype=torch.float64)
    pixels = torch.zeros(len(reader.genes), dtype=torch.float64)
    for seen, gradient in zip(reader.seen, gradients, strict=True):
        maps = reader.maps(seen)
        values = inner(maps, reader.maps(gradient) if gradient.numel() else gradient)
        over_pixels = values.to(torch.float64).sum(2).cpu()[:, reader.positions]  # (b, positions that may go)
        sums.index_add_(1, reader.place, over_pixels)
        pixels.index_add_(0, reader.place, torch.full((len(reader.place),), float(maps.shape[2]), dtype=torch.float64))
    found: np.ndarray = outer(sums, pixels).sum(0).numpy()
    return found


def _watched(network: nn.Module, space: SearchSpace) -> list[tuple[Layer, np.ndarray]]:
    """Layers whose input can be told apart into maps, and the gene of each position of it."""
    modules, found = dict(network.named_modules()), []
    for layer in space.layers:
        gene, module = space.genes_along(layer.weight, layer.in_dim), modules.get(layer.name)
        if gene is None or layer.weight != f"{layer.name}.weight":
            continue
        if isinstance(module, nn.Linear):
            width = module.in_features
        elif isinstance(module, nn.modules.conv._ConvNd):
            width = module.in_channels
        else:
            continue
        if len(gene) == width:
            found.append((layer, gene))
    return found
