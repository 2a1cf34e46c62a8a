"""Variation of genomes: starts, crossover and mutation. All of it works on vectors and groups of genes alone."""

import numpy as np

from evoprune.space.plan import Genome, Group, SearchSpace

RANDOM_KEPT_FRACTIONS = (0.9, 0.75, 0.6, 0.45, 0.3)
RANKED_KEPT_FRACTIONS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Shares of each group's maps that the first population's genomes keep."""

RANK_NOISE = 0.3
"""Standard deviation of what is added to a map's rank (0..1) when one is chosen to go or to come back."""


def first_population(space: SearchSpace, size: int, ranks: np.ndarray, rng: np.random.Generator) -> list[Genome]:
    """The whole network, then in turn genomes ranked by importance and random ones, at several ratios.

    ranks: float (genes,), importance within the group in 0..1. Returns `size` genomes.
    """
    genomes = [space.full()]
    while len(genomes) < size:
        place = (len(genomes) - 1) // 2
        if len(genomes) % 2:
            kept = RANKED_KEPT_FRACTIONS[place % len(RANKED_KEPT_FRACTIONS)]
            noise = 0.0 if place < len(RANKED_KEPT_FRACTIONS) else RANK_NOISE
            importance = ranks + noise * rng.standard_normal(space.genes)
        else:
            kept = RANDOM_KEPT_FRACTIONS[place % len(RANDOM_KEPT_FRACTIONS)]
            importance = rng.random(space.genes)
        shares = np.clip(kept + 0.1 * rng.standard_normal(len(space.groups)), 0.02, 1)
        genomes.append(space.top(importance, shares))
    return genomes


def crossover(space: SearchSpace, one: Genome, other: Genome, ranks: np.ndarray, rng: np.random.Generator) -> Genome:
    """A child that takes each group whole from one of two parents, so that maps which work together stay together."""
    child = one.copy()
    for group, swap in zip(space.groups, rng.random(len(space.groups)) < 0.5, strict=True):
        if swap:
            child[group.genes] = other[group.genes]
    return space.repair(child, ranks)


def mutate(
    space: SearchSpace, genome: Genome, ranks: np.ndarray, mutation_rate: float, rng: np.random.Generator
) -> Genome:
    """A genome in which about `mutation_rate` of the genes have changed, at least one.

    Each group that changes gets narrower (half of the time), wider, or swaps maps at the same width; the maps are
    those of low rank that go and of high rank that come back, with noise.
    """
    genome = genome.copy()
    counts = rng.binomial([group.size for group in space.groups], mutation_rate)
    if not counts.any():
        counts[rng.integers(len(counts))] = 1
    for group, count in zip(space.groups, counts, strict=True):
        if count:
            _change(genome[group.genes], group, int(count), ranks[group.genes], rng)
    return space.repair(genome, ranks + RANK_NOISE * rng.standard_normal(space.genes))


def _change(genes: Genome, group: Group, count: int, ranks: np.ndarray, rng: np.random.Generator) -> None:
    """Changes `count` genes of a group in place."""
    noisy = ranks + RANK_NOISE * rng.standard_normal(group.size)
    kind = rng.random()
    if kind < 0.5:  # fewer would come back at once, for widths are multiples
        count = -(-count // group.round_to) * group.round_to
    if kind < 0.75:
        stays = np.flatnonzero(genes)
        gone = stays[np.argsort(noisy[stays], kind="stable")[: min(count, len(stays) - 1)]]
    else:
        gone = np.zeros(0, dtype=np.int64)
    if kind >= 0.5:
        away = np.flatnonzero(genes == 0)
        genes[away[np.argsort(-noisy[away], kind="stable")[:count]]] = 1
    genes[gone] = 0
