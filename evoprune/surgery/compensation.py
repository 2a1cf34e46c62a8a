"""Compensation: the weights that stay take over, in closed form, what was carried by those that go.

For a layer with weight W (outputs x columns, the columns being its unfolded inputs) and the Gram matrix G of those
columns in the unpruned network, the kept columns S take on what the removed ones R carried:
W'_S = W_S + ((G_SS + lambda I)^-1 G_SR W_R^T)^T, which minimises the change of the layer's output over the calibration
set. The ridge holds back the change alone: no weight shrinks for it, and the output never comes out worse than by
cutting. Statistics are taken once a run; a candidate costs milliseconds.
Least squares for pruned layers: He, Zhang and Sun 2017, eq. 2 (there by the pruned network's own activations).
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Genome, Layer
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import named_tensors, replace_tensors

RIDGE = 1e-4
"""lambda, as a share of the mean of G's diagonal."""

FEW_EXAMPLES = 0.5
"""Examples a column below which samples are kept in the place of their Gram matrix, and solved by."""

FLOAT_BYTES = 4

BATCH_SIZE = 16
"""Images unfolded at once: unfolding multiplies their size by the kernel's."""


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """The unfolded inputs of one layer over the calibration set, group by group.

    gram: float (groups, columns, columns), per example, centred where the layer can take the mean into its bias or a
    batch norm will. samples: where there are far fewer examples than columns, the Gram matrix's root in its place,
    float (groups, examples, columns): gram = samples^T samples. mean: float (groups, columns). bias: the name of the
    bias that takes the mean, None without one.
    """

    gram: Tensor | None
    samples: Tensor | None
    mean: Tensor
    bias: str | None

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.gram, self.samples, self.mean) if tensor is not None)

    def to(self, device: torch.device) -> "LayerStatistics":
        gram, samples, mean = (None if t is None else t.to(device) for t in (self.gram, self.samples, self.mean))
        assert mean is not None
        return LayerStatistics(gram, samples, mean, self.bias)

    def __reduce__(self) -> tuple[Any, ...]:
        """As numpy arrays, which all processes of a machine can share where what carries them lets them."""
        arrays = (None if t is None else t.cpu().numpy() for t in (self.gram, self.samples, self.mean))
        return _of_arrays, (*arrays, self.bias)


def _of_arrays(
    gram: np.ndarray | None, samples: np.ndarray | None, mean: np.ndarray, bias: str | None
) -> LayerStatistics:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that shared arrays are read-only: nobody writes into them
        tensors = [None if array is None else torch.from_numpy(array) for array in (gram, samples, mean)]
    assert tensors[2] is not None
    return LayerStatistics(tensors[0], tensors[1], tensors[2], bias)


Statistics = Mapping[str, LayerStatistics]
"""Weight name -> statistics of its layer."""


@torch.no_grad()
def gram_statistics(
    model: nn.Module, space: SearchSpace, images: Tensor, most_bytes: int | None = None
) -> dict[str, LayerStatistics]:
    """Statistics of every layer that reads maps which may go, on the unpruned network.

    images: float (n, channels, h, w), on the network's device. Layers that are no Conv or Linear modules, and
    transposed convolutions, have none and are left uncompensated; so are the largest ones where all together would
    take more than most_bytes (None: no bound).
    """
    model.eval()
    sums: dict[str, _Sums] = {}
    handles = []
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    for layer in _within(compensated_layers(model, space), len(images), most_bytes):
        module = model.get_submodule(layer.name)
        sums[layer.weight] = _Sums(module, _examples(layer, len(images)))
        handles.append(module.register_forward_pre_hook(sums[layer.weight].add))
    try:
        for batch in images.split(BATCH_SIZE):
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {weight: total.statistics(weight, normed) for weight, total in sums.items()}


def _within(layers: Sequence[Layer], images: int, most_bytes: int | None) -> list[Layer]:
    """As many layers as fit, those of the smallest statistics first; in their own order."""
    if most_bytes is None:
        return list(layers)
    fitting, total = set(), 0
    for layer in sorted(layers, key=lambda layer: _expected_bytes(layer, images)):
        total += _expected_bytes(layer, images)
        if total <= most_bytes:
            fitting.add(layer.weight)
    return [layer for layer in layers if layer.weight in fitting]


def _examples(layer: Layer, images: int) -> int:
    """How many rows of unfolded inputs the layer has over so many images."""
    return images * layer.positions


def _expected_bytes(layer: Layer, images: int) -> int:
    columns = math.prod(layer.shape) // layer.shape[layer.out_dim]
    examples = _examples(layer, images)
    rows = examples if examples < FEW_EXAMPLES * columns else columns
    return FLOAT_BYTES * layer.groups * columns * rows


def compensated_layers(model: nn.Module, space: SearchSpace) -> list[Layer]:
    """Layers whose inputs or taps may go and whose kept weights can be solved for."""
    modules = dict(model.named_modules())
    losing = _layers_that_lose(space)
    return [
        layer
        for layer in space.layers
        if layer.weight in losing
        and layer.weight == f"{layer.name}.weight"
        and isinstance(modules.get(layer.name), nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    ]


@torch.no_grad()
def compensated(
    tensors: Mapping[str, Tensor], space: SearchSpace, phenotype: Phenotype, statistics: Statistics
) -> dict[str, Tensor]:
    """New weights (and biases) of the layers that lose inputs or taps, in their full shapes, zero where columns go.

    tensors: the unpruned network's, by name. Rows that go are left as they were: masking and cutting take them.
    """
    result = {}
    for layer in space.layers:
        stays = _columns_that_stay(layer, phenotype)
        if stays is None or layer.weight not in statistics:
            continue
        layer_statistics = statistics[layer.weight]
        weight = tensors[layer.weight]
        rows = phenotype.kept.get((layer.weight, layer.out_dim), np.arange(weight.shape[layer.out_dim]))
        new, shift = solve(weight, stays, rows, layer_statistics)
        result[layer.weight] = new
        if layer_statistics.bias is not None:
            result[layer_statistics.bias] = tensors[layer_statistics.bias] + shift
    return result


def compensate(model: nn.Module, space: SearchSpace, genome: Genome, statistics: Statistics) -> None:
    """Puts the compensated weights into an unpruned network, in place; its shapes stay."""
    tensors = {name: tensor.detach() for name, tensor in named_tensors(model)}
    replace_tensors(model, compensated(tensors, space, space.check(genome), statistics))


def _columns_that_stay(layer: Layer, phenotype: Phenotype) -> np.ndarray | None:
    """Which unfolded inputs each output keeps: bool (1 or outputs, columns a group); None where it keeps all."""
    if layer.weight in phenotype.kernels:
        kernels = phenotype.kernels[layer.weight]
        return kernels.reshape(len(kernels), -1)
    inputs = phenotype.kept.get((layer.weight, layer.in_dim))
    if inputs is None:
        return None
    stays = np.zeros((1, layer.shape[layer.in_dim], layer.taps), dtype=bool)
    stays[:, inputs] = True
    return stays.reshape(1, -1)


def solve(weight: Tensor, stays: np.ndarray, rows: np.ndarray, statistics: LayerStatistics) -> tuple[Tensor, Tensor]:
    """The least-squares weights on the columns that stay, and what the bias takes on.

    weight: float (outputs, inputs a group, ...taps). stays: bool (outputs, columns a group), or (1, columns) where
    every output keeps the same ones. rows: int, outputs that are wanted; the others keep weights and a shift of 0.
    Returns float of weight's shape, zero at the columns that go, and float (outputs,).
    """
    groups = len(statistics.mean)
    outputs_a_group = len(weight) // groups
    flat = weight.flatten(1)  # (outputs, columns)
    new, shift = flat.clone(), weight.new_zeros(len(weight))
    for group, mean in enumerate(statistics.mean):
        wanted = rows[rows // outputs_a_group == group]
        for same, columns in alike(stays, wanted):
            old = flat[same]
            full = torch.zeros_like(old)
            if statistics.samples is not None:
                full[:, columns] = _solve_by_samples(statistics.samples[group], columns, old)
            elif statistics.gram is not None:
                full[:, columns] = _solve_by_gram(statistics.gram[group], columns, old)
            new[same] = full
            shift[same] = (old - full) @ mean
    return new.reshape(weight.shape), shift


def alike(stays: np.ndarray, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows that keep the same columns, and those columns. Yields int64 (rows,), int64 (columns,)."""
    if not len(rows):
        return
    if len(stays) == 1:
        yield torch.from_numpy(rows), torch.from_numpy(np.flatnonzero(stays[0]))
        return
    patterns, which = np.unique(stays[rows], axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        yield torch.from_numpy(rows[which.reshape(-1) == number]), torch.from_numpy(np.flatnonzero(pattern))


def _solve_by_gram(gram: Tensor, columns: Tensor, old: Tensor) -> Tensor:
    """Weights (rows, kept) of least squares; the old ones where G is no Gram matrix of finite numbers."""
    kept = gram[columns]
    square = kept[:, columns]
    ridge = RIDGE * square.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    square.diagonal().add_(ridge)
    taken_over = solved(square, kept @ old.index_fill(1, columns, 0).T)
    return old[:, columns] if taken_over is None else old[:, columns] + taken_over.T


def _solve_by_samples(samples: Tensor, columns: Tensor, old: Tensor) -> Tensor:
    """The same weights: (X_S^T X_S + l I)^-1 X_S^T Y is X_S^T (X_S X_S^T + l I)^-1 Y, with one row an example."""
    kept = samples[:, columns]
    square = kept @ kept.T
    ridge = RIDGE * (square.diagonal().sum() / max(len(columns), 1)).clamp_min(torch.finfo(samples.dtype).tiny)
    square.diagonal().add_(ridge)
    carried = solved(square, samples @ old.index_fill(1, columns, 0).T)
    return old[:, columns] if carried is None else old[:, columns] + carried.T @ kept


def solved(square: Tensor, right: Tensor) -> Tensor | None:
    """square^-1 right; None where square is not positive definite or the solution not finite."""
    factor, info = torch.linalg.cholesky_ex(square)
    if int(info) != 0:
        return None
    solution = torch.cholesky_solve(right, factor)
    return solution if bool(solution.isfinite().all()) else None


class _Sums:
    """Sums of a layer's unfolded inputs and of their products, over forward passes; or the inputs, where they are few.

    examples: how many rows there will be in all.
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
        """A forward pre-hook. args[0]: the layer's input."""
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

    def statistics(self, weight: str, normed: bool) -> LayerStatistics:
        assert self._sum is not None
        mean = self._sum / self._count
        bias = self._module.bias is not None
        # without either, nothing takes the mean: it has to be carried by the weights
        centre = mean if bias or normed else torch.zeros_like(mean)
        gram = samples = None
        if self._products is not None:
            gram = self._products / self._count - centre[:, :, None] * centre[:, None, :]
        else:
            samples = (torch.cat(self._kept, 1) - centre[:, None, :]) / math.sqrt(self._count)
        name = f"{weight.rpartition('.')[0]}.bias" if bias else None
        return LayerStatistics(gram, samples, mean, name)


def unfolded(module: nn.Module, inputs: Tensor) -> Tensor:
    """What a layer multiplies its weight with: (columns, examples), columns in the order of the flattened weight.

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
    """Layers that lose inputs or taps under some genome but have no statistics."""
    losing = _layers_that_lose(space)
    return tuple(layer.name for layer in space.layers if layer.weight in losing and layer.weight not in statistics)


def _layers_that_lose(space: SearchSpace) -> set[str]:
    """Weights of layers some of whose columns may go. (Of a convolution whose groups go whole, only rows do.)"""
    inputs = {
        layer.weight
        for layer in space.layers
        if space.genes_along(layer.weight, layer.in_dim) is not None and not layer.channels_per_group
    }
    return inputs | {genes.weight for genes in space.inside_layers}


def on_device(statistics: Statistics, device: torch.device) -> dict[str, LayerStatistics]:
    """The same statistics on another device."""
    return {weight: layer.to(device) for weight, layer in statistics.items()}
