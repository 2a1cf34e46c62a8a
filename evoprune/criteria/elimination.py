"""Backward elimination: the map goes first whose loss, after compensation, changes its readers' outputs least.

This is Optimal Brain Surgeon (Hassibi and Stork 1993, eq. 5) for the least squares of `compensation`, all columns of a
map at a time, as in Kurtic, Frantar and Alistarh 2023 (ZipLM, eq. 2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evoprune.criteria.criterion import Criterion, CriterionContext
from evoprune.criteria.importance import LayerValues
from evoprune.space.plan import Group, Layer
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied, named_tensors
from evoprune.surgery.compensation import RIDGE
from evoprune.surgery.layer_statistics import LayerStatistics, Statistics, gram_statistics

MOST_COLUMNS = 8192
"""Readers with more columns are left out, since their inverse would take gigabytes."""


@dataclass(frozen=True, eq=False)
class Elimination:
    """The order in which a group's maps go.

    Attributes:
        order: int64 (maps,), indices within the group, the first to go first.
        error: float64 (maps + 1,), error of the readers' outputs after so many maps went, as a share of their variance
            (0..1, the mean over readers); it never falls.
    """

    order: np.ndarray
    error: np.ndarray


class BackwardElimination(Criterion):
    """The error of the readers' outputs, after compensation, when a map is eliminated after all less important ones.

    A share of the outputs' variance, 0..1, comparable between groups. There is none for groups without a reader that
    has statistics.

    References:
        Hassibi and Stork 1993, eq. 5; Kurtic, Frantar and Alistarh 2023, eq. 2.
    """

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`."""
        model, space = context.model, context.space
        statistics = context.statistics
        if statistics is None:
            network = copied(model).to(context.device)
            statistics = gram_statistics(network, space, context.device_images, context.most_gram_bytes)
        tensors = {name: tensor.detach().to(context.device) for name, tensor in named_tensors(model)}
        values = []
        for group, found in zip(space.groups, eliminations(space, tensors, statistics), strict=True):
            if found is not None:
                ties = np.arange(group.size) * np.finfo(float).eps  # a map that goes later never has a lower value
                values.append(LayerValues(group.start + found.order, found.error[1:] + ties))
        return values


@torch.no_grad()
def eliminations(
    space: SearchSpace, tensors: Mapping[str, Tensor], statistics: Statistics
) -> tuple[Elimination | None, ...]:
    """The elimination of every group; None for a group none of whose readers has statistics.

    Args:
        space: search space of the network.
        tensors: the unpruned network's, by name, on the statistics' device.
        statistics: of the layers' inputs.
    """
    return tuple(_elimination(space, group, tensors, statistics) for group in space.groups)


def _elimination(
    space: SearchSpace, group: Group, tensors: Mapping[str, Tensor], statistics: Statistics
) -> Elimination | None:
    readers = [reader for layer in space.layers if (reader := _reader(space, group, layer, tensors, statistics))]
    if not readers:
        return None
    order: list[int] = []
    error = [0.0]
    present = np.ones(group.size, dtype=bool)
    for _ in range(group.size):
        losses = np.mean([reader.losses() for reader in readers], axis=0)  # (maps,)
        cheapest = int(np.where(present, losses, np.inf).argmin())
        present[cheapest] = False
        order.append(cheapest)
        error.append(error[-1] + max(float(losses[cheapest]), 0.0))
        for reader in readers:
            reader.remove(cheapest)
    return Elimination(np.array(order, dtype=np.int64), np.minimum(np.array(error), 1.0))


def _reader(
    space: SearchSpace, group: Group, layer: Layer, tensors: Mapping[str, Tensor], statistics: Statistics
) -> "_Reader | None":
    """The layer as a reader of the group's maps; None if it reads none of them, or has no least squares to solve."""
    genes = space.genes_along(layer.weight, layer.in_dim)
    if genes is None or layer.groups > 1 or layer.weight not in statistics:
        return None
    columns = [_columns(genes == group.start + place, layer.taps) for place in range(group.size)]
    if not any(map(len, columns)) or len(genes) * layer.taps > MOST_COLUMNS:
        return None
    return _Reader(tensors[layer.weight].flatten(1), statistics[layer.weight], columns)


def _columns(positions: np.ndarray, taps: int) -> Tensor:
    """The columns of the unfolded inputs that belong to these input maps (bool). Returns int64."""
    return torch.from_numpy((np.flatnonzero(positions)[:, None] * taps + np.arange(taps)).reshape(-1))


class _Reader:
    """A layer that reads a group: its compensated weights, and the inverse Gram matrix of the columns that stay."""

    def __init__(self, weight: Tensor, statistics: LayerStatistics, columns: Sequence[Tensor]):
        gram = statistics.gram[0] if statistics.gram is not None else _product(statistics)
        gram = gram.double()
        ridge = RIDGE * gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        self._weight = weight.double().clone()  # (outputs, columns)
        self._variance = ((self._weight @ gram) * self._weight).sum().clamp_min(torch.finfo(torch.float32).tiny)
        self._inverse = torch.linalg.inv(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
        self._columns = list(columns)
        self._present = [len(block) > 0 for block in columns]

    def losses(self) -> np.ndarray:
        """The error that the loss of each map adds, as a share of the outputs' variance: float64 (maps,), 0 if gone."""
        losses = np.zeros(len(self._columns))
        for size in {len(block) for block in self._columns}:
            places = [place for place, block in enumerate(self._columns) if self._present[place] and len(block) == size]
            if not places:
                continue
            index = torch.stack([self._columns[place] for place in places])  # (maps, size)
            inverse = self._inverse[index[:, :, None], index[:, None, :]]  # (maps, size, size)
            weight = self._weight[:, index].movedim(1, 0)  # (maps, outputs, size)
            solved = torch.linalg.solve(inverse, weight.mT)
            losses[places] = ((weight.mT * solved).sum((1, 2)) / self._variance).cpu().numpy()
        return losses

    def remove(self, place: int) -> None:
        """Removes a map, and compensates the other weights for it."""
        block = self._columns[place]
        if not len(block):
            return
        self._present[place] = False
        rows = self._inverse[block]  # (size, columns)
        solved = torch.linalg.solve(rows[:, block], rows)
        self._weight -= self._weight[:, block] @ solved
        self._inverse -= rows.T @ solved


def _product(statistics: LayerStatistics) -> Tensor:
    assert statistics.samples is not None
    return statistics.samples[0].T @ statistics.samples[0]
