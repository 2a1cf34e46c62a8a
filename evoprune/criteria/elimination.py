"""Backward elimination: the map goes first whose loss, after compensation, changes its readers' outputs least.

This is Optimal Brain Surgeon (Hassibi and Stork 1993, eq. 5) for the least squares of `compensation`, all columns of a
map at a time, as in Kurtic, Frantar and Alistarh 2023 (ZipLM, eq. 2).
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

import numpy as np
import torch
from torch import Tensor

from evoprune.criteria.criterion import Criterion, CriterionContext
from evoprune.criteria.importance import LayerValues
from evoprune.plugins.kinds import criterion
from evoprune.space.plan import Group, Layer
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied, named_tensors
from evoprune.surgery.compensation import RIDGE
from evoprune.surgery.layer_statistics import LayerStatistics, Statistics, gram_statistics
from evoprune.training.threads import torch_threads

MOST_COLUMNS = 8192
"""Readers with more columns are left out, since their inverse would take gigabytes."""

SECONDS_A_WEIGHT, SECONDS_A_PRODUCT = 6e-9, 6e-11
"""Seconds for the update of a weight when a map goes, and for a multiply-accumulate of an inverse, on one core."""

MOST_FACTORS = 384
"""Rows of factors that are collected before they are applied to an inverse."""


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


@criterion("elimination")
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


def eliminations(
    space: SearchSpace, tensors: Mapping[str, Tensor], statistics: Statistics
) -> tuple[Elimination | None, ...]:
    """The elimination of every group; None for a group none of whose readers has statistics.

    Groups do not depend on each other. Each is eliminated on one thread, as many at once as PyTorch has threads: most
    products are too small to be shared out.

    Args:
        space: search space of the network.
        tensors: the unpruned network's, by name, on the statistics' device.
        statistics: of the layers' inputs.
    """
    stopped, threads = Event(), torch.get_num_threads()
    largest_first = sorted(range(len(space.groups)), key=lambda place: -_work(space, space.groups[place]))
    found: list[Elimination | None] = [None] * len(space.groups)
    with torch_threads(1), ThreadPoolExecutor(threads) as pool:
        try:
            results = pool.map(
                lambda place: _elimination(space, space.groups[place], tensors, statistics, stopped), largest_first
            )
            for place, elimination in zip(largest_first, results, strict=True):
                found[place] = elimination
        finally:
            stopped.set()  # after an error or Ctrl-C, nothing that has begun is worth waiting for
    return tuple(found)


def expected_seconds(space: SearchSpace, threads: int) -> float:
    """About how long the eliminations of all groups take, by the speed of one core of an Intel Xeon."""
    work = [_work(space, group) for group in space.groups]
    return max(max(work, default=0.0), sum(work) / threads)


def _work(space: SearchSpace, group: Group) -> float:
    """About how long the elimination of a group takes, in seconds."""
    layers = (layer for layer in space.layers if _positions(space, group, layer) is not None)
    return sum(
        SECONDS_A_WEIGHT * group.size * math.prod(layer.shape) + SECONDS_A_PRODUCT * _columns_of(layer) ** 3
        for layer in layers
        if _is_small(layer)
    )


def _columns_of(layer: Layer) -> int:
    """Number of columns of a layer's unfolded inputs."""
    return layer.shape[layer.in_dim] * layer.taps


def _is_small(layer: Layer) -> bool:
    """Whether a layer is solved for: its inverse takes little memory."""
    return layer.groups == 1 and _columns_of(layer) <= MOST_COLUMNS


@torch.no_grad()  # each thread has a mode of its own
def _elimination(
    space: SearchSpace, group: Group, tensors: Mapping[str, Tensor], statistics: Statistics, stopped: Event
) -> Elimination | None:
    readers = [reader for layer in space.layers if (reader := _reader(space, group, layer, tensors, statistics))]
    if not readers:
        return None
    order: list[int] = []
    error = [0.0]
    present = np.ones(group.size, dtype=bool)
    while len(order) < group.size and not stopped.is_set():
        losses = np.mean([reader.losses(group.size) for reader in readers], axis=0)  # (maps,)
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
    positions = _positions(space, group, layer)
    if positions is None or layer.weight not in statistics or not _is_small(layer):
        return None
    columns = [(places[:, None] * layer.taps + np.arange(layer.taps)).reshape(-1) for places in positions]
    return _Reader(tensors[layer.weight].flatten(1), statistics[layer.weight], list(map(torch.from_numpy, columns)))


def _positions(space: SearchSpace, group: Group, layer: Layer) -> list[np.ndarray] | None:
    """The positions along a layer's inputs of each of the group's maps, int64; None if the layer reads none of them."""
    genes = space.genes_along(layer.weight, layer.in_dim)
    if genes is None:
        return None
    places = genes - group.start
    inputs = np.flatnonzero((places >= 0) & (places < group.size))
    if not len(inputs):
        return None
    by_place = inputs[np.argsort(places[inputs], kind="stable")]
    ends = np.cumsum(np.bincount(places[inputs], minlength=group.size))
    return np.split(by_place, ends[:-1])


@dataclass(eq=False)
class _Blocks:
    """Maps with the same number of columns, which lie one after the other.

    Attributes:
        places: int64 (maps,), indices of the maps in the group.
        start: index of the first column.
        size: number of columns of each map.
        inverse: float64 (maps, size, size), each map's block of the inverse Gram matrix; an identity once it is gone.
    """

    places: np.ndarray
    start: int
    size: int
    inverse: Tensor

    @property
    def columns(self) -> slice:
        """The columns of all these maps."""
        return slice(self.start, self.start + self.size * len(self.places))

    def of(self, tensor: Tensor) -> Tensor:
        """Rows of a tensor (columns, n) that belong to these maps: a view (maps, size, n)."""
        return tensor[self.columns].unflatten(0, (len(self.places), self.size))


class _Reader:
    """A layer that reads a group: its compensated weights, and the inverse Gram matrix of the columns that stay.

    A removal changes the whole inverse. The changes are collected as factors, and applied to the blocks on the diagonal
    at once, to the row of a map when it goes, and to the rest when there are `MOST_FACTORS` rows of them: one large
    product instead of many passes over the matrix. Columns of maps that are gone are left out from then on.
    """

    def __init__(self, weight: Tensor, statistics: LayerStatistics, columns: Sequence[Tensor]):
        """Inverts the Gram matrix.

        Args:
            weight: (outputs, columns).
            statistics: of the layer's inputs.
            columns: int64, the columns of each map of the group.
        """
        gram = statistics.gram[0] if statistics.gram is not None else _product(statistics)
        gram, whole = gram.double(), weight.double()
        self._variance = ((whole @ gram) * whole).sum().clamp_min(torch.finfo(torch.float32).tiny)
        sizes = np.array([len(block) for block in columns])
        by_size = [np.flatnonzero(sizes == size) for size in np.unique(sizes[sizes > 0])]
        order = torch.cat([columns[int(place)] for places in by_size for place in places]).to(gram.device)
        self._weight = whole.T[order].contiguous()  # (columns, outputs)
        self._inverse = _inverse(gram)[order[:, None], order]  # (columns, columns), without the factors
        self._set_blocks([(places, int(sizes[places[0]])) for places in by_size])

    def losses(self, maps: int) -> np.ndarray:
        """The error that the loss of each map adds, as a share of the outputs' variance.

        Args:
            maps: number of maps of the group.

        Returns:
            float64 (maps,), 0 if a map is gone or not read.
        """
        losses = np.zeros(maps)
        for blocks in self._blocks:
            weight = blocks.of(self._weight)  # (maps, size, outputs)
            solved = torch.linalg.solve(blocks.inverse, weight @ weight.mT)
            losses[blocks.places] = (solved.diagonal(dim1=1, dim2=2).sum(1) / self._variance).cpu().numpy()
        return losses

    def remove(self, place: int) -> None:
        """Removes a map, and compensates the other weights for it."""
        found = [(blocks, at) for blocks in self._blocks for at in np.flatnonzero(blocks.places == place)]
        if not found:
            return
        [(blocks, at)] = found
        begin = blocks.start + at * blocks.size
        block = slice(begin, begin + blocks.size)
        rows = self._inverse[block] - self._rows[: self._factors, block].T @ self._solved[: self._factors]
        solved = torch.linalg.solve(rows[:, block], rows)
        self._weight.addmm_(solved.T, self._weight[block].clone(), alpha=-1)
        self._weight[block] = 0
        for other in self._blocks:
            other.inverse.baddbmm_(other.of(rows.T), other.of(solved.T).mT, alpha=-1)
        blocks.inverse[at] = torch.eye(blocks.size, dtype=rows.dtype, device=rows.device)
        self._gone.append(block)
        added = slice(self._factors, self._factors + blocks.size)
        self._rows[added], self._solved[added] = rows, solved
        self._factors += blocks.size
        if self._factors + self._largest > len(self._rows):
            self._apply_factors()

    def _apply_factors(self) -> None:
        """Applies the factors to the inverse, and leaves out the columns of maps that are gone."""
        stays = torch.ones(len(self._weight), dtype=torch.bool, device=self._weight.device)
        for block in self._gone:
            stays[block] = False
        kept = stays.nonzero().squeeze(1)
        rows, solved = (factors[: self._factors, kept] for factors in (self._rows, self._solved))
        self._inverse = self._inverse[kept[:, None], kept].addmm_(rows.T, solved, alpha=-1)
        self._weight = self._weight[kept]
        present = [(blocks, blocks.of(stays[:, None])[:, 0, 0].cpu().numpy()) for blocks in self._blocks]
        self._set_blocks([(blocks.places[stay], blocks.size) for blocks, stay in present if stay.any()])

    def _set_blocks(self, by_size: Sequence[tuple[np.ndarray, int]]) -> None:
        """Sets the blocks of maps by their number of columns, in the order of the columns."""
        self._blocks: list[_Blocks] = []
        self._gone: list[slice] = []
        start = 0
        for places, size in by_size:
            blocks = _Blocks(places, start, size, torch.empty(0))
            index = torch.arange(start, start + size * len(places), device=self._inverse.device).view(-1, size)
            blocks.inverse = self._inverse[index[:, :, None], index[:, None, :]]
            self._blocks.append(blocks)
            start += size * len(places)
        self._largest = max((size for _, size in by_size), default=0)
        self._factors = 0  # number of rows of factors
        self._rows = self._inverse.new_empty(max(MOST_FACTORS, self._largest), start)  # of the inverse when a map went
        self._solved = torch.empty_like(self._rows)  # these rows, solved by the map's block


def _inverse(gram: Tensor) -> Tensor:
    """The inverse of a Gram matrix with a ridge on its diagonal."""
    ridge = RIDGE * gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    factor, failed = torch.linalg.cholesky_ex(gram + ridge * torch.eye(len(gram)).to(gram))
    if not failed:
        return torch.cholesky_inverse(factor)
    values, vectors = torch.linalg.eigh(gram)  # of constant inputs, all that is left is rounding, of either sign
    return vectors / (values.clamp_min(0) + ridge) @ vectors.mT


def _product(statistics: LayerStatistics) -> Tensor:
    assert statistics.samples is not None
    return statistics.samples[0].T @ statistics.samples[0]
