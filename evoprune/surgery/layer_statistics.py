"""Statistics of the layers' unfolded inputs in the unpruned network, taken once per run for compensation.

The columns of a layer are its unfolded inputs: for a convolution, one per input map and tap; for a linear layer, one
per input. The Gram matrix of the columns is all that least squares needs.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.space.plan import Layer
from evoprune.space.search_space import SearchSpace

FEW_EXAMPLES = 0.5
"""Examples per column below which samples are kept instead of their Gram matrix."""

FLOAT_BYTES = 4

BATCH_SIZE = 16
"""Images unfolded at once: unfolding multiplies their size by the size of a kernel."""


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """The unfolded inputs of one layer over the calibration set, by group of the convolution.

    Attributes:
        gram: float (groups, columns, columns), divided by the number of examples; centred if the bias of the layer or a
            batch norm can take the mean. None if there are samples.
        samples: float (groups, examples, columns), a root of the Gram matrix (gram = samples^T samples), if there are
            far fewer examples than columns; otherwise None.
        mean: float (groups, columns).
        bias: Name of the bias that takes the mean; None without a bias.
    """

    gram: Tensor | None
    samples: Tensor | None
    mean: Tensor
    bias: str | None

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return sum(tensor.nbytes for tensor in (self.gram, self.samples, self.mean) if tensor is not None)

    def to(self, device: torch.device) -> "LayerStatistics":
        """The same statistics on another device."""
        gram, samples, mean = (None if t is None else t.to(device) for t in (self.gram, self.samples, self.mean))
        assert mean is not None
        return LayerStatistics(gram, samples, mean, self.bias)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles numpy arrays, which the processes of a machine can share if the transport allows it."""
        arrays = (None if t is None else t.cpu().numpy() for t in (self.gram, self.samples, self.mean))
        return _of_arrays, (*arrays, self.bias)


def _of_arrays(
    gram: np.ndarray | None, samples: np.ndarray | None, mean: np.ndarray, bias: str | None
) -> LayerStatistics:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shared arrays are read-only, and nothing writes into them
        tensors = [None if array is None else torch.from_numpy(array) for array in (gram, samples, mean)]
    assert tensors[2] is not None
    return LayerStatistics(tensors[0], tensors[1], tensors[2], bias)


Statistics = Mapping[str, LayerStatistics]
"""Weight name -> statistics of its layer."""


@torch.no_grad()
def gram_statistics(
    model: nn.Module, space: SearchSpace, images: Tensor, most_bytes: int | None = None
) -> dict[str, LayerStatistics]:
    """Takes the statistics of all layers that read removable maps, in forward passes of the unpruned network.

    Layers without statistics are not compensated: transposed convolutions, and layers that are not Conv or Linear
    modules, or whose weights are used without calling them (the output of PyTorch's multi-head attention).

    Args:
        model: The unpruned network; it is put into eval mode.
        space: Its search space.
        images: float (n, channels, h, w), on the network's device: the calibration set.
        most_bytes: Largest size of all statistics together, in bytes: the largest layers are left out; None: no bound.

    Returns:
        Weight name -> statistics, for the argument `statistics` of `ep.mask` and `ep.compact`.

    Example:
        >>> statistics = ep.gram_statistics(model, space, x_calibration)
        >>> small = ep.compact(model, space, genome, statistics)
    """
    model.eval()
    sums: dict[str, _GramAccumulator] = {}
    handles = []
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    for layer in _within(compensated_layers(model, space), len(images), most_bytes):
        module = model.get_submodule(layer.name)
        sums[layer.weight] = _GramAccumulator(module, _examples(layer, len(images)))
        handles.append(module.register_forward_pre_hook(sums[layer.weight].add))
    try:
        for batch in images.split(BATCH_SIZE):
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {weight: total.statistics(weight, normed) for weight, total in sums.items() if total.ran}


def _within(layers: Sequence[Layer], images: int, most_bytes: int | None) -> list[Layer]:
    """The layers whose statistics fit, smallest first; in the given order."""
    if most_bytes is None:
        return list(layers)
    fitting, total = set(), 0
    for layer in sorted(layers, key=lambda layer: _expected_bytes(layer, images)):
        total += _expected_bytes(layer, images)
        if total <= most_bytes:
            fitting.add(layer.weight)
    return [layer for layer in layers if layer.weight in fitting]


def _examples(layer: Layer, images: int) -> int:
    """Number of examples (places times images) of a layer's unfolded inputs."""
    return images * layer.positions


def _expected_bytes(layer: Layer, images: int) -> int:
    columns = math.prod(layer.shape) // layer.shape[layer.out_dim]
    examples = _examples(layer, images)
    rows = examples if examples < FEW_EXAMPLES * columns else columns
    return FLOAT_BYTES * layer.groups * columns * rows


def compensated_layers(model: nn.Module, space: SearchSpace) -> list[Layer]:
    """Layers that can lose inputs or taps, and whose remaining weights can be solved for."""
    modules = dict(model.named_modules())
    losing = _layers_that_lose(space)
    return [
        layer
        for layer in space.layers
        if layer.weight in losing
        and not layer.computed
        and layer.weight == f"{layer.name}.weight"
        and isinstance(modules.get(layer.name), nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    ]


class _GramAccumulator:
    """Adds up a layer's unfolded inputs and their products over forward passes; keeps the inputs if they are few.

    Args:
        module: The layer.
        examples: Total number of examples.
    """

    def __init__(self, module: nn.Module, examples: int):
        self._module = module
        self._examples = examples
        self._groups = int(getattr(module, "groups", 1))
        self._count = 0
        self._sum: Tensor | None = None
        self._products: Tensor | None = None
        self._kept: list[Tensor] = []

    def add(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Adds the input args[0] of a forward pass; a forward pre-hook."""
        columns = unfolded(module, args[0])  # (columns, examples)
        columns = columns.reshape(self._groups, -1, columns.shape[1])
        total = columns.sum(2)
        if self._examples < FEW_EXAMPLES * columns.shape[1]:
            self._kept.append(columns.mT)
        else:
            products = columns @ columns.mT
            self._products = products if self._products is None else self._products.add_(products)
        self._sum = total if self._sum is None else self._sum.add_(total)
        self._count += columns.shape[2]

    @property
    def ran(self) -> bool:
        """Whether there was any input."""
        return self._count > 0

    def statistics(self, weight: str, normed: bool) -> LayerStatistics:
        """The layer's statistics. normed: whether the network has batch norms."""
        assert self._sum is not None
        mean = self._sum / self._count
        bias = self._module.bias is not None
        # without a bias or a batch norm, the weights have to carry the mean
        centre = mean if bias or normed else torch.zeros_like(mean)
        gram = samples = None
        if self._products is not None:
            gram = self._products / self._count - centre[:, :, None] * centre[:, None, :]
        else:
            samples = (torch.cat(self._kept, 1) - centre[:, None, :]) / math.sqrt(self._count)
        name = f"{weight.rpartition('.')[0]}.bias" if bias else None
        return LayerStatistics(gram, samples, mean, name)


def unfolded(module: nn.Module, inputs: Tensor) -> Tensor:
    """The unfolded inputs of a layer: (columns, examples), columns in the order of the flattened weight.

    Args:
        module: A linear layer or a convolution that is not transposed.
        inputs: (batch, ..., features) of a linear layer, (batch, maps, *pixels) of a convolution.
    """
    if isinstance(module, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1]).T
    assert isinstance(module, nn.modules.conv._ConvNd)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    values = F.pad(inputs, module._reversed_padding_repeated_twice, mode=mode)
    for dim, (size, step, spread) in enumerate(zip(module.kernel_size, module.stride, module.dilation, strict=True)):
        values = _windows(values, dim + 2, size, step, spread)
    pixels = len(module.kernel_size)
    # (batch, maps, *pixels, *taps) -> (maps, *taps, batch, *pixels)
    order = (1, *range(2 + pixels, 2 + 2 * pixels), 0, *range(2, 2 + pixels))
    values = values.permute(order)
    return values.reshape(int(np.prod(values.shape[: 1 + pixels])), -1)


def _windows(values: Tensor, dim: int, size: int, step: int, spread: int) -> Tensor:
    windows = values.unfold(dim, spread * (size - 1) + 1, step)
    return windows[..., ::spread]


def uncompensated(space: SearchSpace, statistics: Statistics) -> tuple[str, ...]:
    """Names of layers that can lose inputs or taps but have no statistics."""
    losing = _layers_that_lose(space)
    return tuple(layer.name for layer in space.layers if layer.weight in losing and layer.weight not in statistics)


def _layers_that_lose(space: SearchSpace) -> set[str]:
    """Weights of layers that can lose columns. (A convolution whose groups are genes loses rows only.)"""
    inputs = {
        layer.weight
        for layer in space.layers
        if space.genes_along(layer.weight, layer.in_dim) is not None and not layer.channels_per_group
    }
    return inputs | {genes.weight for genes in space.inside_layers}


def on_device(statistics: Statistics, device: torch.device) -> dict[str, LayerStatistics]:
    """The same statistics on another device."""
    return {weight: layer.to(device) for weight, layer in statistics.items()}
