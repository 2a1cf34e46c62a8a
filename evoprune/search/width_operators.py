"""Variation operators on widths: the number of maps of each group changes, a ranking decides which maps stay."""

from dataclasses import dataclass

import numpy as np

from evoprune.search.operators import GeneOperators
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace

INITIAL_WIDTHS = (0.95, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.15)
"""Shares of every group's maps that genomes of a first population keep."""

INITIAL_SPREAD = 0.4
"""Standard deviation of the logarithm of each group's width in every other genome of a first population."""

LEAST_GENE_SHARE = 0.5
"""Least share of children whose single genes are varied, in a search space with kernels or strides."""

STEPS = (-1.3, -0.3)
"""Powers of ten between which the standard deviation of the change of the widths' logarithms is drawn."""


@dataclass(frozen=True, eq=False)
class WidthOperators:
    """Variation of widths by random factors.

    A group that gets narrower loses its least important maps, one that gets wider gets its most important ones back;
    the other maps stay as they are, so that what the gene operators found is kept. After retraining, the widths decide
    about the accuracy, and there are few of them. The step is drawn for each child.

    Attributes:
        gene_operators: operators on single genes, for crossover, and for kernels and strides of first genomes.

    References:
        Liu et al. 2019 (the widths matter after retraining); Schwefel 1981 (log-normal mutation).
    """

    gene_operators: GeneOperators

    def initial_genomes(self, count: int, rng: np.random.Generator) -> list[Genome]:
        """Genomes of ranked maps: in turn the same share of every group, and random widths around such a share."""
        return [self._initial_genome(number, rng) for number in range(count)]

    def crossover(self, one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
        """As `GeneOperators.crossover`."""
        return self.gene_operators.crossover(one, other, rng)

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """A genome of other widths."""
        space = self.gene_operators.space
        step = 10 ** rng.uniform(*STEPS)
        factors = np.exp(step * (rng.standard_normal() + rng.standard_normal(len(space.groups))))
        wanted = space.widths(genome) * factors
        widths = np.floor(wanted + rng.random(len(wanted))).astype(int)
        return self.resized(genome, widths)

    def resized(self, genome: Genome, widths: np.ndarray) -> Genome:
        """The genome at other widths: the least important maps go, the most important ones come back.

        Args:
            genome: uint8 (genes,).
            widths: int (groups,), number of maps of each group; at least one stays.
        """
        space, ranks = self.gene_operators.space, self.gene_operators.preferences.maps
        before, genome = genome, genome.copy()
        for group, width in zip(space.groups, widths.tolist(), strict=True):
            genes = genome[group.genes]  # A view.
            order = np.argsort(-ranks[group.genes] - 2.0 * genes, kind="stable")  # Present maps first, by rank.
            genes[:] = 0
            genes[order[: max(width, 1)]] = 1
        return space.repair(space.with_restored_kernels(genome, before), self.gene_operators.preferences.genes)

    def _initial_genome(self, number: int, rng: np.random.Generator) -> Genome:
        """The ranked genome at one of the initial widths; kernels and strides are as the gene operators draw them."""
        space = self.gene_operators.space
        spread = INITIAL_SPREAD if number % 2 else 0.0
        share = INITIAL_WIDTHS[
            (number * 4) % len(INITIAL_WIDTHS)
        ]  # Steps of 4 of 9: few genomes cover the whole range.
        shares = np.clip(share * np.exp(spread * rng.standard_normal(len(space.groups))), 0.02, 1.0)
        genome = space.most_important(self.gene_operators.preferences.genes, shares)
        if space.inside_layers:
            drawn = self.gene_operators.initial_genomes(number + 1, rng)[number]
            for part in space.inside_layers:
                genome[part.genes] = drawn[part.genes]
        return space.repair(genome, self.gene_operators.preferences.genes)


def gene_mutation_share(space: SearchSpace, refinement: float) -> float:
    """The share of children whose single genes are varied instead of their widths, 0..1.

    All children if no map may go, at least `LEAST_GENE_SHARE` of them if kernels or strides may, else `refinement`.
    """
    if not space.groups:
        return 1.0
    return max(refinement, LEAST_GENE_SHARE) if space.inside_layers else refinement
