"""Variation operators on genes: first genomes, crossover and mutation, by genome vectors and preferences alone."""

from dataclasses import dataclass

import numpy as np

from evoprune.criteria.preferences import Preferences
from evoprune.space.kernel_genes import KernelGenes, StrideGenes
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace

RANDOM_KEPT_FRACTIONS = (0.9, 0.75, 0.6, 0.45, 0.3)
RANKED_KEPT_FRACTIONS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Shares of maps, kernels and taps that random and ranked genomes of a first population keep."""

RANK_NOISE = 0.3
"""Standard deviation of the noise on the ranks (0..1) by which maps and kernels go or come back."""

REMOVALS, RETURNS = 0.5, 0.25
"""Shares of mutations that remove parts, and that bring parts back; the others swap parts."""

REACH = (-0.8, 0.5)
"""Powers of ten between which the factor on the mutation rates is drawn; its mean is 1."""


@dataclass(frozen=True)
class MutationRates:
    """Chances (0..1) that a feature-map gene, a kernel gene and a stride gene of a child change."""

    maps: float
    kernels: float
    strides: float


@dataclass(frozen=True, eq=False)
class GeneOperators:
    """Variation of single genes.

    Attributes:
        space: search space of the genomes.
        preferences: which parts rather stay.
        rates: mutation rates.
    """

    space: SearchSpace
    preferences: Preferences
    rates: MutationRates

    def initial_genomes(self, count: int, rng: np.random.Generator) -> list[Genome]:
        """Genomes ranked by importance and random ones in turn, at several ratios."""
        genomes: list[Genome] = []
        while len(genomes) < count:
            number, random = divmod(len(genomes), 2)
            fractions = RANDOM_KEPT_FRACTIONS if random else RANKED_KEPT_FRACTIONS
            noise = np.inf if random else RANK_NOISE if number >= len(fractions) else 0.0
            genomes.append(self._initial_genome(fractions[number % len(fractions)], noise, rng))
        return genomes

    def crossover(self, one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
        """A child that takes each group's maps, each layer's kernels and each layer's strides from one parent.

        Kernels come back if the parent that gave a layer's kernels lacked the maps that the child has.
        """
        space, child = self.space, one.copy()
        givers = [other if swap else one for swap in rng.random(len(space.parts)) < 0.5]
        for part, giver in zip(space.parts, givers, strict=True):
            child[part.genes] = giver[part.genes]
        for part, giver in zip(space.parts, givers, strict=True):
            if isinstance(part, KernelGenes):
                space.restore_kernels(child, space.restored_maps(child, giver), part)
        return space.repair(child, self.preferences.genes)

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """A genome in which genes change at about the mutation rates, at least one.

        A mutation removes parts, brings parts back, or swaps them, throughout the genome: maps and kernels of low rank
        go and those of high rank come back, with noise; strides move to masks of fewer, more or as many taps. A factor
        on the rates is drawn log-uniformly, so that some children move far and some little.
        """
        space, chances = self.space, self.rates
        kind, reach = rng.random(), 10 ** rng.uniform(*REACH)
        rates = [chances.maps] * len(space.groups) + [chances.kernels] * len(space.kernels)
        rates += [chances.strides] * len(space.strides)
        counts = rng.binomial([part.size for part in space.parts], np.minimum(reach * np.array(rates), 0.5))
        if not counts.any():
            counts[rng.integers(len(counts))] = 1
        of_maps, of_kernels, of_strides = np.split(counts, np.cumsum([len(space.groups), len(space.kernels)]))
        before, genome = genome, genome.copy()
        for group, count in zip(space.groups, of_maps, strict=True):
            if kind < REMOVALS:  # Widths are multiples of `round_to`: fewer maps would come back in the repair.
                count = -(-count // group.round_to) * group.round_to
            if count:
                _change_bits(genome[group.genes], int(count), self.preferences.maps[group.genes], kind, rng)
        genome = space.with_restored_kernels(genome, before)
        for kernels, ranks, count in zip(space.kernels, self.preferences.kernels, of_kernels, strict=True):
            if count:
                _change_bits(genome[kernels.genes], int(count), ranks, kind, rng)
        for strides, kept, count in zip(space.strides, self.preferences.strides, of_strides, strict=True):
            for gene in rng.permutation(strides.size)[:count]:
                place = strides.start + gene
                genome[place] = _other_mask(strides, int(genome[place]), kept[gene], kind, rng)
        return space.repair(genome, self.preferences.genes + RANK_NOISE * rng.standard_normal(space.genes))

    def _initial_genome(self, kept_fraction: float, noise: float, rng: np.random.Generator) -> Genome:
        """A genome that keeps about this share of every kind of part. noise: on ranks; infinite: a random genome."""
        space = self.space

        def importance(ranks: np.ndarray) -> np.ndarray:
            return rng.random(len(ranks)) if np.isinf(noise) else ranks + noise * rng.standard_normal(len(ranks))

        def share() -> float:
            return float(np.clip(kept_fraction + 0.1 * rng.standard_normal(), 0.02, 1))

        maps = importance(self.preferences.maps)
        genome = space.most_important(maps, np.array([share() for _ in space.groups]))
        for kernels, ranks in zip(space.kernels, self.preferences.kernels, strict=True):
            order = np.argsort(importance(ranks), kind="stable")
            genome[kernels.start + order[: round((1 - share()) * kernels.size)]] = 0
        for strides, kept in zip(space.strides, self.preferences.strides, strict=True):
            genome[strides.genes] = _masks_at(strides, share(), kept, noise, rng)
        return space.repair(genome, self.preferences.genes)


def _change_bits(genes: Genome, count: int, ranks: np.ndarray, kind: float, rng: np.random.Generator) -> None:
    """Removes, brings back or swaps (by `kind`, 0..1) `count` genes, in place; at least one stays."""
    noisy = ranks + RANK_NOISE * rng.standard_normal(len(genes))
    present, removed = np.flatnonzero(genes), np.flatnonzero(genes == 0)
    if kind >= REMOVALS:
        genes[removed[np.argsort(-noisy[removed], kind="stable")[:count]]] = 1
    if not REMOVALS <= kind < REMOVALS + RETURNS:
        genes[present[np.argsort(noisy[present], kind="stable")[: max(0, min(count, len(present) - 1))]]] = 0


def _masks_at(
    strides: StrideGenes, kept_fraction: float, kept: np.ndarray, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """For each gene the mask of about this share of taps that keeps most importance, with noise, or a random one.

    Args:
        strides: the genes and their table of masks.
        kept_fraction: share of the taps that stay, 0..1.
        kept: float (genes, masks), share of a gene's importance that each mask keeps.
        noise: standard deviation of the noise on that share; infinite: a random mask.
        rng: generator of the noise.

    Returns:
        int (genes,), indices into the table.
    """
    taps = strides.tap_table.sum(1)
    wanted = taps[np.argmin(np.abs(taps / taps.max() - kept_fraction))]
    values = np.flatnonzero(taps == wanted)
    scores = rng.random((strides.size, len(values)))
    if not np.isinf(noise):
        scores = kept[:, values] + noise * (scores - 0.5)
    return values[scores.argmax(1)]


def _other_mask(strides: StrideGenes, value: int, kept: np.ndarray, kind: float, rng: np.random.Generator) -> int:
    """Another mask of the next fewer, the next more or as many taps; the more importance it keeps, the likelier."""
    taps = strides.tap_table.sum(1)
    levels = np.unique(taps)
    level = int(np.searchsorted(levels, taps[value]))
    level += -1 if kind < REMOVALS else 1 if kind < REMOVALS + RETURNS else 0
    values = np.flatnonzero(taps == levels[np.clip(level, 0, len(levels) - 1)])
    values = values[values != value]
    if not len(values):
        return value
    weights = kept[values] + 1e-3
    return int(rng.choice(values, p=weights / weights.sum()))
