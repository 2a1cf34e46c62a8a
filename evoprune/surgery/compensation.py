"""Compensation: in closed form, the weights that stay take over the contribution of the removed ones.

For a layer with weight W (outputs x columns, the columns being its unfolded inputs) and the Gram matrix G of those
columns in the unpruned network, the kept columns S take over from the removed columns R:
W'_S = W_S + ((G_SS + lambda I)^-1 G_SR W_R^T)^T, which minimises the change of the layer's output over the calibration
set. The ridge restrains the change alone: it shrinks no weight, and the output is never worse than after cutting only.

References:
    He, Zhang and Sun 2017, eq. 2: least squares for pruned layers (there on the pruned network's own activations).
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Genome, Layer
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import named_tensors, replace_tensors
from evoprune.surgery.layer_statistics import LayerStatistics, Statistics

RIDGE = 1e-4
"""lambda, relative to the mean of G's diagonal."""


@torch.no_grad()
def compensated(
    tensors: Mapping[str, Tensor], space: SearchSpace, phenotype: Phenotype, statistics: Statistics
) -> dict[str, Tensor]:
    """Compensated weights and biases of the layers that lose inputs or taps.

    Args:
        tensors: Tensors of the unpruned network by name.
        space: The search space.
        phenotype: A phenotype of this space.
        statistics: Of `gram_statistics`; layers without are left out.

    Returns:
        Tensors by name, in full shape, zero at removed columns. Removed rows keep their values, because masking and
        cutting remove them anyway.
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
    """Compensates an unpruned network, in place; its shapes stay."""
    tensors = {name: tensor.detach() for name, tensor in named_tensors(model)}
    replace_tensors(model, compensated(tensors, space, space.check(genome), statistics))


def _columns_that_stay(layer: Layer, phenotype: Phenotype) -> np.ndarray | None:
    """The columns that each output keeps: bool (1 or outputs, columns per group); None if it keeps all."""
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
    """Solves for the weights on the columns that stay.

    Args:
        weight: float (outputs, inputs per group, *taps).
        stays: bool (outputs, columns per group), or (1, columns per group) if all outputs keep the same columns.
        rows: int (rows,), the outputs to solve for; the others keep their weights and get a shift of 0.
        statistics: Of the layer.

    Returns:
        The weights, float of weight's shape, zero at removed columns; and the change of the bias, float (outputs,).
    """
    groups = len(statistics.mean)
    outputs_a_group = len(weight) // groups
    flat = weight.flatten(1)  # (outputs, columns)
    new, shift = flat.clone(), weight.new_zeros(len(weight))
    for group, mean in enumerate(statistics.mean):
        wanted = rows[rows // outputs_a_group == group]
        for same, columns in rows_with_equal_columns(stays, wanted):
            old = flat[same]
            full = torch.zeros_like(old)
            if statistics.samples is not None:
                full[:, columns] = _solve_by_samples(statistics.samples[group], columns, old)
            elif statistics.gram is not None:
                full[:, columns] = _solve_by_gram(statistics.gram[group], columns, old)
            new[same] = full
            shift[same] = (old - full) @ mean
    return new.reshape(weight.shape), shift


def rows_with_equal_columns(stays: np.ndarray, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Sets of rows that keep the same columns, with these columns. Yields int64 (rows,), int64 (columns,)."""
    if not len(rows):
        return
    if len(stays) == 1:
        yield torch.from_numpy(rows), torch.from_numpy(np.flatnonzero(stays[0]))
        return
    patterns, which = np.unique(stays[rows], axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        yield torch.from_numpy(rows[which.reshape(-1) == number]), torch.from_numpy(np.flatnonzero(pattern))


def _solve_by_gram(gram: Tensor, columns: Tensor, old: Tensor) -> Tensor:
    """Least-squares weights (rows, kept); the old ones if G is not a finite positive definite matrix."""
    kept = gram[columns]
    square = kept[:, columns]
    ridge = RIDGE * square.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
    square.diagonal().add_(ridge)
    taken_over = solve_positive_definite(square, kept @ old.index_fill(1, columns, 0).T)
    return old[:, columns] if taken_over is None else old[:, columns] + taken_over.T


def _solve_by_samples(samples: Tensor, columns: Tensor, old: Tensor) -> Tensor:
    """The same weights by (X_S^T X_S + l I)^-1 X_S^T Y = X_S^T (X_S X_S^T + l I)^-1 Y, with one row per example."""
    kept = samples[:, columns]
    square = kept @ kept.T
    ridge = RIDGE * (square.diagonal().sum() / max(len(columns), 1)).clamp_min(torch.finfo(samples.dtype).tiny)
    square.diagonal().add_(ridge)
    carried = solve_positive_definite(square, samples @ old.index_fill(1, columns, 0).T)
    return old[:, columns] if carried is None else old[:, columns] + carried.T @ kept


def solve_positive_definite(square: Tensor, right: Tensor) -> Tensor | None:
    """square^-1 right; None if square is not positive definite or the solution is not finite."""
    factor, info = torch.linalg.cholesky_ex(square)
    if int(info) != 0:
        return None
    solution = torch.cholesky_solve(right, factor)
    return solution if bool(solution.isfinite().all()) else None
