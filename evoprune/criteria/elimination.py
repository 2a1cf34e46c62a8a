"""Which feature maps the layers that read them miss least, when the weights that stay take over what goes.

Backward elimination: again and again the map goes whose loss costs its readers least after compensation. That is
Optimal Brain Surgeon (Hassibi and Stork 1993, eq. 5) for the least squares of `compensation`, a map's columns at a
time, as in Kurtic, Frantar and Alistarh 2023 (ZipLM, eq. 2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evoprune.space.plan import Group, Layer
from evoprune.space.search_space import SearchSpace
from evoprune.surgery.compensation import RIDGE, LayerStatistics, Statistics

MOST_COLUMNS = 8192
"""Readers with more columns are left out: their inverse would take gigabytes."""


@dataclass(frozen=True, eq=False)
class Elimination:
    """In which order a group's maps go, and what that costs.

    order: int64 (maps,), places in the group, the first to go first. error: float64 (maps + 1,), what is lost of the
    readers' outputs (their variance; 0 to 1, the mean over readers) when so many have gone; it never falls.
    """

    order: np.ndarray
    error: np.ndarray


@torch.no_grad()
def eliminations(
    space: SearchSpace, tensors: Mapping[str, Tensor], statistics: Statistics
) -> tuple[Elimination | None, ...]:
    """For every group of the space its elimination; None where none of its readers has statistics.

    tensors: the unpruned network's, by name, on the statistics' device.
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
    left = np.ones(group.size, dtype=bool)
    for _ in range(group.size):
        losses = np.mean([reader.losses() for reader in readers], axis=0)  # (maps,)
        goes = int(np.where(left, losses, np.inf).argmin())
        left[goes] = False
        order.append(goes)
        error.append(error[-1] + max(float(losses[goes]), 0.0))
        for reader in readers:
            reader.remove(goes)
    return Elimination(np.array(order, dtype=np.int64), np.minimum(np.array(error), 1.0))


def _reader(
    space: SearchSpace, group: Group, layer: Layer, tensors: Mapping[str, Tensor], statistics: Statistics
) -> "_Reader | None":
    """The layer as a reader of the group's maps; None where it reads none, or cannot be solved for."""
    genes = space.genes_along(layer.weight, layer.in_dim)
    if genes is None or layer.groups > 1 or layer.weight not in statistics:
        return None
    columns = [_columns(genes == group.start + place, layer.taps) for place in range(group.size)]
    if not any(map(len, columns)) or len(genes) * layer.taps > MOST_COLUMNS:
        return None
    return _Reader(tensors[layer.weight].flatten(1), statistics[layer.weight], columns)


def _columns(positions: np.ndarray, taps: int) -> Tensor:
    """Columns of the unfolded inputs at these positions (bool) of the input maps. Returns int64."""
    return torch.from_numpy((np.flatnonzero(positions)[:, None] * taps + np.arange(taps)).reshape(-1))


class _Reader:
    """One layer that reads a group: its weights as they are solved for, and the inverse Gram matrix of what stays."""

    def __init__(self, weight: Tensor, statistics: LayerStatistics, columns: Sequence[Tensor]):
        gram = statistics.gram[0] if statistics.gram is not None else _product(statistics)
        gram = gram.double()
        ridge = RIDGE * gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        self._weight = weight.double().clone()  # (outputs, columns)
        self._variance = ((self._weight @ gram) * self._weight).sum().clamp_min(torch.finfo(torch.float32).tiny)
        self._inverse = torch.linalg.inv(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
        self._columns = list(columns)
        self._left = [len(block) > 0 for block in columns]

    def losses(self) -> np.ndarray:
        """What the loss of each map costs, as a share of the outputs' variance. float64 (maps,); 0 for those gone."""
        losses = np.zeros(len(self._columns))
        for size in {len(block) for block in self._columns}:
            places = [place for place, block in enumerate(self._columns) if self._left[place] and len(block) == size]
            if not places:
                continue
            index = torch.stack([self._columns[place] for place in places])  # (maps, size)
            inverse = self._inverse[index[:, :, None], index[:, None, :]]  # (maps, size, size)
            weight = self._weight[:, index].movedim(1, 0)  # (maps, outputs, size)
            solved = torch.linalg.solve(inverse, weight.mT)
            losses[places] = ((weight.mT * solved).sum((1, 2)) / self._variance).cpu().numpy()
        return losses

    def remove(self, place: int) -> None:
        """The map goes, and what it carried is taken over."""
        block = self._columns[place]
        if not len(block):
            return
        self._left[place] = False
        rows = self._inverse[block]  # (size, columns)
        solved = torch.linalg.solve(rows[:, block], rows)
        self._weight -= self._weight[:, block] @ solved
        self._inverse -= rows.T @ solved


def _product(statistics: LayerStatistics) -> Tensor:
    assert statistics.samples is not None
    return statistics.samples[0].T @ statistics.samples[0]
