"""A particle filter over pruning masks: the pruning ratio rises as long as the masks stay good enough."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evoprune.plugins.kinds import algorithm
from evoprune.scoring.candidate import Candidate
from evoprune.search.algorithm import Algorithm, keys_of
from evoprune.search.breeding import Breeder
from evoprune.search.inputs import SearchInputs
from evoprune.search.objective import Objective
from evoprune.search.random_search import random_genome_at
from evoprune.space.plan import Genome

COST_FACTOR = 0.85
"""Highest factor from the cost of one generation's particles to the next one's."""

DESCENT_GENERATIONS = 6
"""Number of generations in which the last target is reached if `COST_FACTOR` would take more."""


class ParticleFilter(Algorithm):
    """Particles are masks at one cost level, which falls from generation to generation.

    The weight of a particle falls exponentially with its MCR (or divergence). Particles are resampled by weight, then
    crossed over and mutated against impoverishment. Without a target, the level falls as long as one particle is
    within the tolerance; else the level is tried again with other particles. With targets, the level falls to each of
    them in turn, stays at each for the same number of spare generations, and ends at the last one.

    References:
        Anwar, Hwang and Sung 2017, section 4; Kitagawa 1996 (systematic resampling).
    """

    def __init__(self, breeder: Breeder, objective: Objective, generations: int, rng: np.random.Generator):
        """Starts without particles.

        Args:
            breeder: makes children.
            objective: the fitness by which particles are weighted, and the targets.
            generations: length of the search, which is divided among the targets.
            rng: all random draws come from it.
        """
        super().__init__(objective)
        full_cost = breeder.cost_of(breeder.unpruned)
        self._breeder = breeder
        self._rng = rng
        self._factor = cost_factor(objective.floor / full_cost)
        self._level = max(self._factor * full_cost, *objective.targets[:1], 0.0)
        self._spare = spare_generations(generations, len(objective.targets))
        self._stayed = 0
        self._particles: list[Candidate] = []

    def dominance_bounds(self) -> tuple[tuple[float, float], ...]:
        """None: the weight of every particle depends on all images."""
        return ()

    def ask(self, count: int) -> list[Genome]:
        """Children of resampled particles; before the first `tell`, random masks at the first level."""
        breeder = self._breeder
        if not self._particles:
            drawn = [random_genome_at(breeder.space, self._level, breeder.cost_of, self._rng) for _ in range(count - 1)]
            return [breeder.unpruned, *drawn]
        weights = particle_weights([self._rate(particle) for particle in self._particles])
        genomes = [self._particles[index].genome for index in systematic_resample(weights, count, self._rng)]

        def child(genome: Genome) -> Genome:
            parents = iter((genome, genomes[int(self._rng.integers(count))]))
            return breeder.breed(lambda: next(parents), self._level, self._rng)

        return [child(genome) for genome in genomes]

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Takes the candidates at the present level as particles, and lowers the level if it is time."""
        super().tell(candidates)
        at_level = [one for one in candidates if self._objective.cost_of(one) <= self._level]
        good_enough = bool(self._objective.targets) or any(one.score.feasible for one in at_level)
        self._particles = at_level or self._particles or list(candidates)
        if self._level in self._objective.targets and self._stayed < self._spare:
            self._stayed += 1
        elif good_enough:
            self._level, self._stayed = self._next_level(), 0

    def state(self) -> dict[str, Any]:
        """The generator's state, the level, how long it has lasted, and the keys of the particles and of the front."""
        return {
            "rng": self._rng.bit_generator.state,
            "level": self._level,
            "stayed": self._stayed,
            "particles": keys_of(self._particles),
            **super().state(),
        }

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """Continues from a state, as `Algorithm.restore`."""
        super().restore(state, candidates)
        self._rng.bit_generator.state = state["rng"]
        self._level = state["level"]
        self._stayed = state["stayed"]
        self._particles = [candidates[key] for key in state["particles"]]

    def _rate(self, particle: Candidate) -> float:
        """The mean fitness over the images seen: the MCR, or the mean divergence."""
        return self._objective.fitness_of(particle) / particle.score.images_seen

    def _next_level(self) -> float:
        """The next lower level: one step down, but not past the next target."""
        targets = [target for target in self._objective.targets if target < self._level]
        if self._objective.targets:
            return max(self._factor * self._level, targets[0]) if targets else self._level
        return self._factor * self._level


def cost_factor(target_share: float) -> float:
    """The factor on the level in each generation.

    Args:
        target_share: the lowest target as a share of the unpruned network's cost, 0..1; 0: there is no target.
    """
    return min(COST_FACTOR, target_share ** (1 / DESCENT_GENERATIONS)) if target_share > 0 else COST_FACTOR


def spare_generations(generations: int, targets: int) -> int:
    """The number of generations that the level stays at each target, besides the one that reaches it."""
    return max(0, generations - DESCENT_GENERATIONS - (targets - 1)) // targets if targets else 0


def particle_weights(rates: Sequence[float]) -> np.ndarray:
    """Weights of particles: exp(-(rate - lowest rate) / spread), normalised to a sum of 1.

    The spread is the standard deviation of the rates, so that the strength of selection does not depend on how hard
    the data are.

    Args:
        rates: MCR or mean divergence of each particle.

    Returns:
        float64 (particles,).
    """
    values = np.array(rates, dtype=np.float64)
    spread = values.std()
    raw = np.exp(-(values - values.min()) / spread) if spread > 0 else np.ones(len(values))
    return raw / raw.sum()


def systematic_resample(weights: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Indices of `count` particles, each drawn within one of count * weight times.

    References:
        Kitagawa 1996 (systematic resampling).
    """
    points = (rng.random() + np.arange(count)) / count
    return np.minimum(np.searchsorted(np.cumsum(weights), points), len(weights) - 1).tolist()


@algorithm("particle_filter")
def make_particle_filter(inputs: SearchInputs) -> Algorithm:
    """Particles of masks at one cost level, which falls from generation to generation, as by Anwar et al."""
    return ParticleFilter(inputs.map_breeder, inputs.objective, inputs.settings.generations, inputs.rng)
