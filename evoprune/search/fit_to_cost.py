"""Brings a genome to a target cost: maps and kernels go or come back, every group's width by the same factor."""

from collections.abc import Callable

import numpy as np

from evoprune.space.kernel_genes import KernelGenes
from evoprune.space.plan import Genome, Group
from evoprune.space.search_space import SearchSpace

CostOf = Callable[[Genome], float]
"""Cost of a genome."""


def fit_to_cost(space: SearchSpace, genome: Genome, target: float, cost_of: CostOf, importance: np.ndarray) -> Genome:
    """The genome with as many maps and kernels as the target cost allows.

    The least important maps of a group (or kernels of a layer) go first, the most important ones come back first.
    Stride genes change only after all maps and kernels have gone or come back: then one after the other gets the mask
    of the fewest taps, or the dense one.

    Args:
        space: search space of the genome.
        genome: uint8 (genes,).
        target: highest cost allowed.
        cost_of: cost of a genome; must not rise when a part goes.
        importance: float (genes,), higher stays; compared within groups and layers alone.

    Returns:
        The genome. It costs more than the target only if nothing is left to remove.
    """
    over = cost_of(genome) > target
    values = _removed_values(space) if over else space.full()
    order = _removal_order(space, genome, importance) if over else _return_order(space, genome, importance)

    def changed(count: int) -> Genome:
        result = genome.copy()
        result[order[:count]] = values[order[:count]]
        return space.repair(space.with_restored_kernels(result, genome), importance)

    low, high = 0, len(order)  # Bisection for the fewest genes to remove, or the most genes to bring back.
    while low < high:
        middle = (low + high) // 2 if over else (low + high + 1) // 2
        fits = cost_of(changed(middle)) <= target
        if over:
            low, high = (low, middle) if fits else (middle + 1, high)
        else:
            low, high = (middle, high) if fits else (low, middle - 1)
    return changed(low)


def smallest_genome(space: SearchSpace) -> Genome:
    """The genome of the lowest cost: minimum widths, no kernels, and each layer's masks of the fewest taps.

    Kernels stay if a map that must stay would be lost without them.
    """
    return space.repair(_removed_values(space), np.zeros(space.genes))


def _removed_values(space: SearchSpace) -> Genome:
    """The value of each gene after its part has gone: 0 for maps and kernels, the mask of the fewest taps."""
    genome = np.zeros(space.genes, dtype=np.uint8)
    for strides in space.strides:
        genome[strides.genes] = int(strides.tap_table.sum(1).argmin())
    return genome


def _removal_order(space: SearchSpace, genome: Genome, importance: np.ndarray) -> np.ndarray:
    """Genes of the present parts, in the order in which they go: by their rank as a share of their group's width."""
    genes, places = [], []
    for part in _binary_parts(space):
        present = part.genes.start + np.flatnonzero(genome[part.genes])
        genes.append(present[np.argsort(importance[present], kind="stable")])
        places.append(np.arange(1, len(present) + 1) / max(len(present), 1))
    return np.concatenate(
        [_sorted_by(places, genes), _strides_to_change(space, genome, _removed_values(space), importance)]
    )


def _return_order(space: SearchSpace, genome: Genome, importance: np.ndarray) -> np.ndarray:
    """Genes of the removed parts, in the order in which they come back: by how much wider their group then is."""
    genes, places = [], []
    for part in _binary_parts(space):
        removed = part.genes.start + np.flatnonzero(genome[part.genes] == 0)
        genes.append(removed[np.argsort(-importance[removed], kind="stable")])
        places.append(np.arange(1, len(removed) + 1) / max(part.size - len(removed), 1))
    return np.concatenate([_sorted_by(places, genes), _strides_to_change(space, genome, space.full(), -importance)])


def _strides_to_change(space: SearchSpace, genome: Genome, values: Genome, importance: np.ndarray) -> np.ndarray:
    """Stride genes whose value differs from `values`, the least important first."""
    genes = [strides.start + np.flatnonzero((genome != values)[strides.genes]) for strides in space.strides]
    differing = np.concatenate([np.zeros(0, dtype=np.int64), *genes])
    return differing[np.argsort(importance[differing], kind="stable")]


def _binary_parts(space: SearchSpace) -> tuple[Group | KernelGenes, ...]:
    """Groups of maps, and layers' kernels."""
    return (*space.groups, *space.kernels)


def _sorted_by(places: list[np.ndarray], genes: list[np.ndarray]) -> np.ndarray:
    """All genes by ascending place; genes of the same place keep their order."""
    if not genes:
        return np.zeros(0, dtype=np.int64)
    return np.concatenate(genes)[np.argsort(np.concatenate(places), kind="stable")]
