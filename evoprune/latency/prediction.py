"""Predicts the latency of candidates from the times of single layers, measured on this machine once a run.

Every layer is timed over a grid of widths, between which time is interpolated. If kernels or taps can be removed, the
share of time that is left is measured on random masks. The time outside of the layers is the difference between whole
networks and the sum of their layers, as a function of the number of map elements that the layers compute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Layer
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import kernel_mask
from evoprune.surgery.apply import compact
from evoprune.surgery.lowering.lower import lower_compacted
from evoprune.surgery.lowering.stopwatch import Stopwatch, seconds_a_call
from evoprune.surgery.recording import recorded
from evoprune.training.threads import torch_threads

WIDTHS = (0.125, 0.25, 0.5, 0.75, 1.0)
"""Shares of a layer's maps in the grid."""

KEPT = (0.2, 0.4, 0.7)
"""Shares of a layer's kernels that the timed random masks keep."""

Curve = tuple[tuple[float, float], ...]
"""A piecewise linear function: points (x, y) by ascending x, constant outside of them."""


@dataclass(frozen=True)
class LayerTimeGrid:
    """The times of one layer, for one image.

    Attributes:
        weight: Name of the layer's weight.
        outputs: Numbers of output maps in the grid.
        inputs: Numbers of input maps (of a group) in the grid.
        ms: Milliseconds: ms[i][j] is the time with outputs[i] output and inputs[j] input maps.
        masked: Share of the time that is left, as a function of the share of the weights that stay; 1 at 1.
    """

    weight: str
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]
    masked: Curve = ((1.0, 1.0),)

    def predict(self, outputs: int, inputs: int, kept: float) -> float:
        """The predicted time, in milliseconds.

        Args:
            outputs: Number of output maps.
            inputs: Number of input maps (of a group).
            kept: Share of the weights between these maps that is not masked, in 0..1.
        """
        by_outputs = [np.interp(inputs, self.inputs, row) for row in self.ms]
        return float(np.interp(outputs, self.outputs, by_outputs)) * _on(self.masked, kept)


@dataclass(frozen=True)
class LatencyTable:
    """The times of a network's layers.

    Attributes:
        layers: The grid of each layer.
        rest: Milliseconds outside of the layers, as a function of the number of map elements that all layers compute.
    """

    layers: tuple[LayerTimeGrid, ...]
    rest: Curve

    def predict(self, space: SearchSpace, phenotype: Phenotype) -> float:
        """Predicted milliseconds of one image through the phenotype's lowered network, on one thread."""
        return max(0.0, self._of_layers(space, phenotype) + _on(self.rest, _elements(space, phenotype)))

    def _of_layers(self, space: SearchSpace, phenotype: Phenotype) -> float:
        return sum(
            times.predict(*_widths(space.layer(times.weight), phenotype), _kept(phenotype, times.weight))
            for times in self.layers
        )

    def to_dict(self) -> dict[str, Any]:
        """The table as lists, strings and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LatencyTable":
        """The inverse of `to_dict`."""
        layers = (
            LayerTimeGrid(
                row["weight"],
                tuple(row["outputs"]),
                tuple(row["inputs"]),
                tuple(tuple(line) for line in row["ms"]),
                _curve(row["masked"]),
            )
            for row in data["layers"]
        )
        return cls(tuple(layers), _curve(data["rest"]))


def latency_table(
    model: nn.Module, space: SearchSpace, image: Tensor, stopwatch: Stopwatch = seconds_a_call
) -> LatencyTable:
    """Measures the times of a network's layers on one thread of this machine.

    Args:
        model: The network, in eval mode, on the CPU.
        space: Its search space.
        image: float (1, c, h, w).
        stopwatch: Times calls, in seconds.
    """
    with torch_threads(1), torch.no_grad():
        modules = {name for name, module in model.named_modules() if _is_timed(module)}
        timed = [layer for layer in space.layers if layer.name in modules and layer.positions]
        given = recorded(model, [layer.name for layer in timed], (image,))
        rng = np.random.default_rng(0)
        layers = tuple(
            _layer_times(layer, model.get_submodule(layer.name), given[layer.name][0], space, rng, stopwatch)
            for layer in timed
            if layer.name in given
        )
        table = LatencyTable(layers, ((0.0, 0.0),))
        points: dict[float, float] = {}
        for share in WIDTHS:
            genome = space.most_important(rng.random(space.genes), np.full(len(space.groups), share))
            phenotype = space.check(genome)
            network = lower_compacted(compact(model, space, genome), image, keep_plain=True, stopwatch=stopwatch)
            (seconds,) = stopwatch([partial(network.network, image)])
            points[_elements(space, phenotype)] = 1e3 * seconds - table._of_layers(space, phenotype)
        return LatencyTable(layers, tuple(sorted(points.items())))


def _layer_times(
    layer: Layer, module: Any, values: Tensor, space: SearchSpace, rng: np.random.Generator, stopwatch: Stopwatch
) -> LayerTimeGrid:
    outputs = _grid(space, layer, layer.out_dim)
    inputs = (layer.shape[layer.in_dim],) if layer.channels_per_group else _grid(space, layer, layer.in_dim)
    cells = [_narrowed(layer, module, values, rows, columns) for rows in outputs for columns in inputs]
    layouts = (torch.channels_last, torch.contiguous_format)
    best = np.min([stopwatch([_laid_out_call(*cell, layout) for cell in cells]) for layout in layouts], axis=0)
    ms = 1e3 * best.reshape(len(outputs), len(inputs))
    masked = _masked_curve(layer, module, values, space, rng, stopwatch)
    return LayerTimeGrid(layer.weight, outputs, inputs, tuple(tuple(row) for row in ms.tolist()), masked)


def _grid(space: SearchSpace, layer: Layer, dim: int) -> tuple[int, ...]:
    """The widths of the grid along a weight's dimension: a single one if nothing along it can be removed."""
    size = layer.shape[dim]
    if space.genes_along(layer.weight, dim) is None:
        return (size,)
    step = layer.channels_per_group or (layer.groups if dim == layer.out_dim else 1)
    return tuple(sorted({max(step, round(share * size / step) * step) for share in WIDTHS} | {size}))


def _narrowed(layer: Layer, module: Any, values: Tensor, rows: int, columns: int) -> tuple[Any, Tensor]:
    """The layer with `rows` output and `columns` input maps (of a group), and an input for it."""
    if isinstance(module, nn.Linear):
        return nn.Linear(columns, rows).to(values), values.new_zeros(*values.shape[:-1], columns)
    groups = rows // layer.channels_per_group if layer.channels_per_group else module.groups
    conv = type(module)(
        columns * groups, rows, module.kernel_size, module.stride, module.padding, module.dilation, groups,
        padding_mode=module.padding_mode,
    )  # fmt: skip
    return conv.to(values), torch.zeros(values.shape[0], columns * groups, *values.shape[2:]).to(values)


def _laid_out_call(module: nn.Module, values: Tensor, layout: torch.memory_format) -> Any:
    if values.ndim == 4:
        module, values = module.to(memory_format=layout), values.contiguous(memory_format=layout)
    # Without the module, whose layout the next call changes in place.
    return partial(_detached(module), values)


def _detached(module: Any) -> Any:
    weight, bias = module.weight.detach(), module.bias.detach()
    if isinstance(module, nn.Linear):
        return partial(nn.functional.linear, weight=weight, bias=bias)
    return partial(module._conv_forward, weight=weight, bias=bias)


def _masked_curve(
    layer: Layer, module: Any, values: Tensor, space: SearchSpace, rng: np.random.Generator, stopwatch: Stopwatch
) -> Curve:
    """The share of the layer's time that is left after lowering, measured on random masks at full width."""
    if isinstance(module, nn.Linear) or not any(genes.weight == layer.weight for genes in space.inside_layers):
        return ((1.0, 1.0),)
    points = {1.0: 1.0}
    plain = lower_compacted(module, values, keep_plain=True, stopwatch=stopwatch).network
    for share in KEPT:
        genome = space.full()
        for genes in space.inside_layers:
            if genes.weight == layer.weight:
                drawn = rng.integers(space.cardinality[genes.genes])
                kernels = genes in space.kernels
                genome[genes.genes] = rng.random(genes.size) < share if kernels else drawn
        phenotype = space.phenotype(genome)
        if layer.weight not in phenotype.kernels:
            continue
        mask = kernel_mask(space, phenotype, layer.weight)
        lowered = lower_compacted(module, values, {"weight": mask}, stopwatch=stopwatch).network
        times = stopwatch([partial(plain, values), partial(lowered, values)])
        points[float(mask.float().mean())] = min(1.0, times[1] / times[0])
    return tuple(sorted(points.items()))


def _is_timed(module: nn.Module) -> bool:
    return type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _widths(layer: Layer, phenotype: Phenotype) -> tuple[int, int]:
    """Numbers of output and input maps (of a group) of a layer in a phenotype."""
    kept = [phenotype.kept.get((layer.weight, dim)) for dim in (layer.out_dim, layer.in_dim)]
    sizes = (layer.shape[layer.out_dim], layer.shape[layer.in_dim])
    outputs, inputs = (size if index is None else len(index) for size, index in zip(sizes, kept, strict=True))
    return outputs, inputs


def _kept(phenotype: Phenotype, weight: str) -> float:
    """The share of a layer's weights between remaining maps that is not masked."""
    kernels = phenotype.kernels.get(weight)
    if kernels is None:
        return 1.0
    rows, columns = np.any(kernels, axis=(1, 2)).sum(), np.any(kernels, axis=(0, 2)).sum()
    return float(kernels.sum() / max(1, rows * columns * kernels.shape[2]))


def _elements(space: SearchSpace, phenotype: Phenotype) -> float:
    """Number of map elements that all layers compute for one image."""
    return float(sum(_widths(layer, phenotype)[0] * layer.positions for layer in space.layers))


def _on(curve: Curve, x: float) -> float:
    xs, ys = zip(*curve, strict=True)
    return float(np.interp(x, xs, ys))


def _curve(points: Sequence[Sequence[float]]) -> Curve:
    return tuple((float(x), float(y)) for x, y in points)
