"""Genomes brought to a cost: maps (and kernels) go or come back, every group's width by the same factor."""

from collections.abc import Callable

import numpy as np

from evoprune.space.kernel_genes import KernelGenes
from evoprune.space.plan import Genome, Group
from evoprune.space.search_space import SearchSpace

CostOf = Callable[[Genome], float]
"""What a genome costs."""


def fitted(space: SearchSpace, genome: Genome, target: float, cost_of: CostOf, importance: np.ndarray) -> Genome:
    """The genome with as many maps and kernels as cost no more than the target, and no fewer.

    Those of least importance in their group (or layer) go first, those of most come back first. Strides stay, but where
    no map or kernel is left to go, or to come back: then one after the other gets a mask of the fewest taps, or none.
    importance: float (genes,), compared within groups and layers alone. Where nothing is left to go (a network of
    which most stays whole) it may cost more than the target.
    """
    over = cost_of(genome) > target
    values = _fewest(space) if over else space.full()
    order = _leaving(space, genome, importance) if over else _returning(space, genome, importance)

    def changed(count: int) -> Genome:
        result = genome.copy()
        result[order[:count]] = values[order[:count]]
        return space.repair(space.returned(result, genome), importance)

    low, high = 0, len(order)  # over: the fewest that go; else: the most that come back
    while low < high:
        middle = (low + high) // 2 if over else (low + high + 1) // 2
        fits = cost_of(changed(middle)) <= target
        if over:
            low, high = (low, middle) if fits else (middle + 1, high)
        else:
            low, high = (middle, high) if fits else (low, middle - 1)
    return changed(low)


def least(space: SearchSpace) -> Genome:
    """The genome that keeps no more than it must: least widths, no kernels, of each layer's masks those of fewest taps.

    Kernels without which a map that must stay would go are left.
    """
    return space.repair(_fewest(space), np.zeros(space.genes))


def _fewest(space: SearchSpace) -> Genome:
    """No maps, no kernels, and masks of the fewest taps: what genes are where all has gone."""
    genome = np.zeros(space.genes, dtype=np.uint8)
    for strides in space.strides:
        genome[strides.genes] = int(strides.tap_table.sum(1).argmin())
    return genome


def _leaving(space: SearchSpace, genome: Genome, importance: np.ndarray) -> np.ndarray:
    """Genes that stay, in the order in which they go: by their place in their group as a share of its width."""
    genes, places = [], []
    for part in _binary_parts(space):
        stays = part.genes.start + np.flatnonzero(genome[part.genes])
        genes.append(stays[np.argsort(importance[stays], kind="stable")])
        places.append(np.arange(1, len(stays) + 1) / max(len(stays), 1))
    return np.concatenate([_by_place(genes, places), _strides_to_move(space, genome, _fewest(space), importance)])


def _returning(space: SearchSpace, genome: Genome, importance: np.ndarray) -> np.ndarray:
    """Genes that have gone, in the order in which they come back: by how much wider their group then is."""
    genes, places = [], []
    for part in _binary_parts(space):
        gone = part.genes.start + np.flatnonzero(genome[part.genes] == 0)
        genes.append(gone[np.argsort(-importance[gone], kind="stable")])
        places.append(np.arange(1, len(gone) + 1) / max(part.size - len(gone), 1))
    return np.concatenate([_by_place(genes, places), _strides_to_move(space, genome, space.full(), -importance)])


def _strides_to_move(space: SearchSpace, genome: Genome, values: Genome, importance: np.ndarray) -> np.ndarray:
    """Stride genes that have not these values yet, of least importance first."""
    genes = [strides.start + np.flatnonzero((genome != values)[strides.genes]) for strides in space.strides]
    moved = np.concatenate([np.zeros(0, dtype=np.int64), *genes])
    return moved[np.argsort(importance[moved], kind="stable")]


def _binary_parts(space: SearchSpace) -> tuple[Group | KernelGenes, ...]:
    """Groups of maps, and layers' kernels."""
    return (*space.groups, *space.kernels)


def _by_place(genes: list[np.ndarray], places: list[np.ndarray]) -> np.ndarray:
    if not genes:
        return np.zeros(0, dtype=np.int64)
    return np.concatenate(genes)[np.argsort(np.concatenate(places), kind="stable")]
