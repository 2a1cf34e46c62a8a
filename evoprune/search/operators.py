"""Variation of genomes: starts, crossover and mutation. All of it works on vectors, groups and preferences alone."""

from dataclasses import dataclass

import numpy as np

from evoprune.config.schema import SearchConfig
from evoprune.criteria.preferences import Preferences
from evoprune.space.kernel_genes import KernelGenes, StrideGenes
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace

RANDOM_KEPT_FRACTIONS = (0.9, 0.75, 0.6, 0.45, 0.3)
RANKED_KEPT_FRACTIONS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Shares of each group's maps (and of kernels, and of taps) that the first population's genomes keep."""

RANK_NOISE = 0.3
"""Standard deviation of what is added to a rank (0..1) when a map or kernel is chosen to go or to come back."""

NARROWER, WIDER = 0.5, 0.25
"""Shares of mutations that take away, and that give back; the others swap."""

REACH = (-0.8, 0.5)
"""Powers of ten between which the factor on the mutation rates is drawn; its mean is 1."""


@dataclass(frozen=True, eq=False)
class Operators:
    """Starts, crossover and mutation for one search space. Every one takes the generator that it draws from."""

    space: SearchSpace
    preferences: Preferences
    config: SearchConfig

    def starts(self, size: int, rng: np.random.Generator) -> list[Genome]:
        """In turn genomes ranked by importance and random ones, at several ratios."""
        genomes: list[Genome] = []
        while len(genomes) < size:
            place, random = divmod(len(genomes), 2)
            fractions = RANDOM_KEPT_FRACTIONS if random else RANKED_KEPT_FRACTIONS
            noise = np.inf if random else RANK_NOISE if place >= len(fractions) else 0.0
            genomes.append(self._start(fractions[place % len(fractions)], noise, rng))
        return genomes

    def crossover(self, one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
        """A child with each group's maps, each layer's kernels and each layer's strides whole from one parent.

        Kernels of maps that had gone in the parent whose kernels a layer has come back.
        """
        space, child = self.space, one.copy()
        givers = [other if swap else one for swap in rng.random(len(space.parts)) < 0.5]
        for part, giver in zip(space.parts, givers, strict=True):
            child[part.genes] = giver[part.genes]
        for part, giver in zip(space.parts, givers, strict=True):
            if isinstance(part, KernelGenes):
                space.bring_kernels_back(child, space.come_back(child, giver), part)
        return space.repair(child, self.preferences.genes)

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """A genome in which genes have changed at about the config's three rates, at least one.

        The whole child gets narrower, wider, or swaps at the same widths: groups of maps and layers' kernels alike,
        those of low rank going and those of high rank coming back, with noise; strides move to masks of fewer, more or
        as many taps. How far it moves is drawn log-uniformly around the rates, so that some children leap and some
        refine.
        """
        space, config = self.space, self.config
        kind, reach = rng.random(), 10 ** rng.uniform(*REACH)
        rates = [config.mutation_rate] * len(space.groups) + [config.kernel_mutation_rate] * len(space.kernels)
        rates += [config.stride_mutation_rate] * len(space.strides)
        counts = rng.binomial([part.size for part in space.parts], np.minimum(reach * np.array(rates), 0.5))
        if not counts.any():
            counts[rng.integers(len(counts))] = 1
        of_maps, of_kernels, of_strides = np.split(counts, np.cumsum([len(space.groups), len(space.kernels)]))
        before, genome = genome, genome.copy()
        for group, count in zip(space.groups, of_maps, strict=True):
            if kind < NARROWER:  # fewer would come back at once, for widths are multiples
                count = -(-count // group.round_to) * group.round_to
            if count:
                _change_bits(genome[group.genes], int(count), self.preferences.maps[group.genes], kind, rng)
        genome = space.returned(genome, before)
        for kernels, ranks, count in zip(space.kernels, self.preferences.kernels, of_kernels, strict=True):
            if count:
                _change_bits(genome[kernels.genes], int(count), ranks, kind, rng)
        for strides, kept, count in zip(space.strides, self.preferences.strides, of_strides, strict=True):
            for gene in rng.permutation(strides.size)[:count]:
                place = strides.start + gene
                genome[place] = _other_mask(strides, int(genome[place]), kept[gene], kind, rng)
        return space.repair(genome, self.preferences.genes + RANK_NOISE * rng.standard_normal(space.genes))

    def _start(self, kept_fraction: float, noise: float, rng: np.random.Generator) -> Genome:
        """A genome that keeps about this share of every kind of part; noise: infinite for a random one."""
        space = self.space

        def importance(ranks: np.ndarray) -> np.ndarray:
            return rng.random(len(ranks)) if np.isinf(noise) else ranks + noise * rng.standard_normal(len(ranks))

        def share() -> float:
            return float(np.clip(kept_fraction + 0.1 * rng.standard_normal(), 0.02, 1))

        maps = importance(self.preferences.maps)
        genome = space.top(maps, np.array([share() for _ in space.groups]))
        for kernels, ranks in zip(space.kernels, self.preferences.kernels, strict=True):
            order = np.argsort(importance(ranks), kind="stable")
            genome[kernels.start + order[: round((1 - share()) * kernels.size)]] = 0
        for strides, kept in zip(space.strides, self.preferences.strides, strict=True):
            genome[strides.genes] = _masks_at(strides, share(), kept, noise, rng)
        return space.repair(genome, self.preferences.genes)


def _change_bits(genes: Genome, count: int, ranks: np.ndarray, kind: float, rng: np.random.Generator) -> None:
    """Takes away, gives back or swaps (by `kind`, 0..1) `count` genes, in place; one always stays."""
    noisy = ranks + RANK_NOISE * rng.standard_normal(len(genes))
    stays, away = np.flatnonzero(genes), np.flatnonzero(genes == 0)
    if kind >= NARROWER:
        genes[away[np.argsort(-noisy[away], kind="stable")[:count]]] = 1
    if not NARROWER <= kind < NARROWER + WIDER:
        genes[stays[np.argsort(noisy[stays], kind="stable")[: max(0, min(count, len(stays) - 1))]]] = 0


def _masks_at(
    strides: StrideGenes, kept_fraction: float, kept: np.ndarray, noise: float, rng: np.random.Generator
) -> np.ndarray:
    """For each gene a mask that keeps about this share of taps: of those, the one that keeps most of the norm, or any.

    kept: float (genes, values), share of the norm. Returns int (genes,).
    """
    taps = strides.tap_table.sum(1)
    wanted = taps[np.argmin(np.abs(taps / taps.max() - kept_fraction))]
    values = np.flatnonzero(taps == wanted)
    scores = rng.random((strides.size, len(values)))
    if not np.isinf(noise):
        scores = kept[:, values] + noise * (scores - 0.5)
    return values[scores.argmax(1)]


def _other_mask(strides: StrideGenes, value: int, kept: np.ndarray, kind: float, rng: np.random.Generator) -> int:
    """Another mask with the next fewer, the next more or as many taps; the more of the norm it keeps, the likelier."""
    taps = strides.tap_table.sum(1)
    levels = np.unique(taps)
    level = int(np.searchsorted(levels, taps[value]))
    level += -1 if kind < NARROWER else 1 if kind < NARROWER + WIDER else 0
    values = np.flatnonzero(taps == levels[np.clip(level, 0, len(levels) - 1)])
    values = values[values != value]
    if not len(values):
        return value
    weights = kept[values] + 1e-3
    return int(rng.choice(values, p=weights / weights.sum()))
