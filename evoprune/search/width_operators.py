"""Variation of widths: how many maps each group keeps is what is searched, which ones a ranking says."""

from dataclasses import dataclass

import numpy as np

from evoprune.search.operators import Operators
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace

START_WIDTHS = (0.95, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.15)
"""Shares of every group's maps that starts keep, in turn."""

START_SPREAD = 0.4
"""Standard deviation of the logarithm of each group's width in every other start."""

INSIDE = 0.5
"""Share of children whose single genes are varied where there are any inside layers (kernels, strides), at least."""

STEPS = (-1.3, -0.3)
"""Powers of ten between which the standard deviation of the change of widths' logarithms is drawn."""


@dataclass(frozen=True, eq=False)
class WidthOperators:
    """Widths change by factors; a group that gets narrower loses its least important maps, one that gets wider gets its
    most important ones back. So what single maps were found to be better (by `maps`, the operators on single genes,
    which also vary kernels and strides) stays found.

    After retraining the widths are what counts (Liu et al. 2019): a search among them is small, and the ranking
    inside can look at far more than scores say. Widths by factors with a step drawn for each child: as an evolution
    strategy with log-normal mutations, Schwefel 1981.
    """

    maps: Operators

    def starts(self, size: int, rng: np.random.Generator) -> list[Genome]:
        """Ranked maps: in turn the same share of every group, and widths around that."""
        return [self._start(place, rng) for place in range(size)]

    def crossover(self, one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
        """A child with each group's maps, each layer's kernels and each layer's strides whole from one parent."""
        return self.maps.crossover(one, other, rng)

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """A genome of other widths."""
        space = self.maps.space
        step = 10 ** rng.uniform(*STEPS)
        factors = np.exp(step * (rng.standard_normal() + rng.standard_normal(len(space.groups))))
        wanted = space.widths(genome) * factors
        widths = np.floor(wanted + rng.random(len(wanted))).astype(int)
        return self.resized(genome, widths)

    def resized(self, genome: Genome, widths: np.ndarray) -> Genome:
        """The genome with such widths: the least important maps go, the most important ones come back."""
        space, ranks = self.maps.space, self.maps.preferences.maps
        before, genome = genome, genome.copy()
        for group, width in zip(space.groups, widths.tolist(), strict=True):
            genes = genome[group.genes]  # a view
            order = np.argsort(-ranks[group.genes] - 2.0 * genes, kind="stable")  # what stays first, by rank
            genes[:] = 0
            genes[order[: max(width, 1)]] = 1
        return space.repair(space.returned(genome, before), self.maps.preferences.genes)

    def _start(self, place: int, rng: np.random.Generator) -> Genome:
        """The ranked genome at one of the shares; inside layers, what the operators on genes start with."""
        space = self.maps.space
        spread = START_SPREAD if place % 2 else 0.0
        share = START_WIDTHS[(place * 4) % len(START_WIDTHS)]  # few of them go all the way, too
        shares = np.clip(share * np.exp(spread * rng.standard_normal(len(space.groups))), 0.02, 1.0)
        genome = space.top(self.maps.preferences.genes, shares)
        if space.inside_layers:
            other = self.maps.starts(place + 1, rng)[place]
            for part in space.inside_layers:
                genome[part.genes] = other[part.genes]
        return space.repair(genome, self.maps.preferences.genes)


def share_of_maps(space: SearchSpace, refinement: float) -> float:
    """The share of children whose single genes are varied: all where no map may go, more where others may change."""
    if not space.groups:
        return 1.0
    return max(refinement, INSIDE) if space.inside_layers else refinement
