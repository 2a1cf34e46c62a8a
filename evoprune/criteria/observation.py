"""Feature maps as the layers that read them receive them, image by image, and the gradients of these inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.criteria.importance import LayerValues
from evoprune.space.plan import Layer
from evoprune.space.search_space import SearchSpace
from evoprune.tasks.trees import Tree

BATCH_SIZE = 32
"""Images in a pass; all maps of a network are in memory at once."""

BackwardTarget = Callable[[Tree, slice], Tensor]
"""(outputs, places of those images) -> the scalar to differentiate, a sum over images."""

PixelValues = Callable[[Tensor, Tensor], Tensor]
"""(activations, gradients) -> values, all (b, positions, pixels). Gradients are empty if there is no target."""

MapValues = Callable[[Tensor, Tensor], Tensor]
"""(sums of a map's pixel values (b, maps), number of pixels of each map (maps,)) -> values (b, maps)."""


@dataclass(eq=False)
class _WatchedLayer:
    """A layer that reads prunable maps.

    Attributes:
        gene: int64 (positions,), gene of each position of its input; -1 for positions that stay.
        inputs: its inputs in the present pass.
    """

    module: nn.Module
    gene: np.ndarray
    inputs: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        movable = self.gene >= 0
        self.positions = torch.from_numpy(np.flatnonzero(movable))
        self.genes, place = np.unique(self.gene[movable], return_inverse=True)
        self.place = torch.from_numpy(place)

    def observe(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A forward pre-hook. The layer reads a copy of its input, whose gradient comes from this layer alone."""
        own = args[0].clone()
        if torch.is_grad_enabled() and not own.requires_grad:
            own.requires_grad_()
        self.inputs.append(own)
        return (own, *args[1:])

    def maps(self, values: Tensor) -> Tensor:
        """A tensor of the input's shape as (b, positions, pixels)."""
        maps = values.movedim(-1, 1) if isinstance(self.module, nn.Linear) else values
        return maps.flatten(2) if maps.dim() > 2 else maps[:, :, None]


def observe(
    network: nn.Module,
    space: SearchSpace,
    images: Tensor,
    pixel_values: PixelValues,
    map_values: MapValues,
    target: BackwardTarget | None = None,
) -> list[LayerValues]:
    """Values of the maps that each layer reads: the mean over images of a function of sums over pixels.

    A map is taken where it is read: after batch norm, activation and pooling. Several positions of one map (behind a
    flattening) count as its pixels. Layers that are no modules, and grouped ones, are left out.

    Args:
        network: in eval mode, on the images' device, its parameters taking gradients.
        space: its search space.
        images: float (n, c, h, w).
        pixel_values: values of pixels, which are summed over each map.
        map_values: values of maps from these sums.
        target: the scalar whose gradients `pixel_values` receives; None: without gradients.

    Returns:
        The values of each layer's input maps.
    """
    watched = [_WatchedLayer(network.get_submodule(layer.name), gene) for layer, gene in _readers(network, space)]
    handles = [layer.module.register_forward_pre_hook(layer.observe) for layer in watched]
    totals = [np.zeros(len(layer.genes)) for layer in watched]
    try:
        for start in range(0, len(images), BATCH_SIZE):
            places = slice(start, min(start + BATCH_SIZE, len(images)))
            with torch.set_grad_enabled(target is not None):
                outputs = network(images[places])
                gradients = _gradients(watched, None if target is None else target(outputs, places))
            for layer, total, layer_gradients in zip(watched, totals, gradients, strict=True):
                total += _layer_sum(layer, layer_gradients, pixel_values, map_values)
                layer.inputs.clear()
    finally:
        for handle in handles:
            handle.remove()
    return [LayerValues(layer.genes, total / len(images)) for layer, total in zip(watched, totals, strict=True)]


def mean_over_pixels(sums: Tensor, pixels: Tensor) -> Tensor:
    """The map values that are the mean over pixels, for `observe`."""
    return sums / pixels


def _gradients(watched: Sequence[_WatchedLayer], target: Tensor | None) -> list[list[Tensor]]:
    """For each layer the gradient of each of its inputs; empty tensors without a target."""
    if target is None:
        return [[given.new_empty(0) for given in layer.inputs] for layer in watched]
    inputs = [given for layer in watched for given in layer.inputs]
    found = iter(torch.autograd.grad(target, inputs, allow_unused=True, materialize_grads=True))
    return [[next(found) for _ in layer.inputs] for layer in watched]


@torch.no_grad()
def _layer_sum(
    layer: _WatchedLayer, gradients: Sequence[Tensor], pixel_values: PixelValues, map_values: MapValues
) -> np.ndarray:
    """The sum of the values over a pass's images: float64 (genes,)."""
    if not layer.inputs:
        return np.zeros(len(layer.genes))
    sums = torch.zeros(len(layer.inputs[0]), len(layer.genes), dtype=torch.float64)
    pixels = torch.zeros(len(layer.genes), dtype=torch.float64)
    for given, gradient in zip(layer.inputs, gradients, strict=True):
        maps = layer.maps(given)
        values = pixel_values(maps, layer.maps(gradient) if gradient.numel() else gradient)
        over_pixels = values.to(torch.float64).sum(2).cpu()[:, layer.positions]  # (b, prunable positions)
        sums.index_add_(1, layer.place, over_pixels)
        pixels.index_add_(0, layer.place, torch.full((len(layer.place),), float(maps.shape[2]), dtype=torch.float64))
    found: np.ndarray = map_values(sums, pixels).sum(0).numpy()
    return found


def _readers(network: nn.Module, space: SearchSpace) -> list[tuple[Layer, np.ndarray]]:
    """Layers whose input separates into maps, with the gene of each position of the input."""
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
