"""A particle filter over pruning masks, whose ratio rises as long as the masks keep up."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evoprune.scoring.candidate import Candidate
from evoprune.search.breeding import Breeder
from evoprune.search.objective import Objective
from evoprune.search.random_search import drawn_at
from evoprune.search.selection import feasible_front
from evoprune.space.plan import Genome

STEP = 0.85
"""Factor on the cost that particles are brought to, from one generation to the next, at most."""

FALL = 6
"""Generations in which the last target is reached, where the factor above would take more."""


class ParticleFilter:
    """Particles are masks at one ratio, which rises from generation to generation.

    A particle's weight falls exponentially with its MCR (or divergence); particles are resampled by weight
    (systematically, Kitagawa 1996), and against impoverishment crossed and mutated. Without a target the ratio rises
    while the best particle is within the tolerance, else the last one that was is tried again with other particles;
    with targets it rises to each of them in turn, has as many of the `generations` to spare at each, and stays at the
    last.
    Anwar, Hwang and Sung 2017, section 4.
    """

    def __init__(self, breeder: Breeder, objective: Objective, generations: int, rng: np.random.Generator):
        whole = breeder.cost_of(breeder.whole)
        self._breeder = breeder
        self._objective = objective
        self._rng = rng
        self._step = step_to(objective.floor / whole)
        self._level = max(self._step * whole, *objective.targets[:1], 0.0)
        self._stays = generations_to_spare(generations, len(objective.targets))
        self._stayed = 0
        self._particles: list[Candidate] = []
        self.front: list[Candidate] = []

    def known(self) -> tuple[tuple[float, float], ...]:
        """Nothing: every particle's weight depends on all images."""
        return ()

    def ask(self, count: int) -> list[Genome]:
        """So many particles; at first random masks at the first ratio, after the whole network."""
        breeder = self._breeder
        if not self._particles:
            drawn = [drawn_at(breeder.space, self._level, breeder.cost_of, self._rng) for _ in range(count - 1)]
            return [breeder.whole, *drawn]
        parents = resampled(weights([self._rate(particle) for particle in self._particles]), count, self._rng)
        genomes = [self._particles[parent].genome for parent in parents]

        def bred(genome: Genome) -> Genome:
            mates = iter((genome, genomes[int(self._rng.integers(count))]))
            return breeder.child_at(lambda: next(mates), self._level, self._rng)

        return [bred(genome) for genome in genomes]

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """The scored particles of what was asked last."""
        self.front = feasible_front([*self.front, *candidates], self._objective)
        reached = [one for one in candidates if self._objective.cost_of(one) <= self._level]
        kept_up = bool(self._objective.targets) or any(one.score.feasible for one in reached)
        self._particles = reached or self._particles or list(candidates)
        if self._level in self._objective.targets and self._stayed < self._stays:
            self._stayed += 1
        elif kept_up:
            self._level, self._stayed = self._next_level(), 0

    def state(self) -> dict[str, Any]:
        """Plain data from which `restore` goes on."""
        return {
            "rng": self._rng.bit_generator.state,
            "level": self._level,
            "stayed": self._stayed,
            "particles": [candidate.key for candidate in self._particles],
            "front": [candidate.key for candidate in self.front],
        }

    def restore(self, state: Mapping[str, Any], candidates: Mapping[str, Candidate]) -> None:
        """The state of before; `candidates` by key, as they were told."""
        self._rng.bit_generator.state = state["rng"]
        self._level = state["level"]
        self._stayed = state["stayed"]
        self._particles = [candidates[key] for key in state["particles"]]
        self.front = [candidates[key] for key in state["front"]]

    def _rate(self, particle: Candidate) -> float:
        """The mean over the images seen: the MCR; of a particle that was stopped, what it was till then."""
        return self._objective.fitness_of(particle) / particle.score.images_seen

    def _next_level(self) -> float:
        """A step down, to the next target at most."""
        targets = [target for target in self._objective.targets if target < self._level]
        if self._objective.targets:
            return max(self._step * self._level, targets[0]) if targets else self._level
        return self._step * self._level


def step_to(share: float) -> float:
    """The factor a generation that gets to a share of the cost; share 0: there is no target."""
    return min(STEP, share ** (1 / FALL)) if share > 0 else STEP


def generations_to_spare(generations: int, targets: int) -> int:
    """What every target can have beyond the generation that gets to it, when the last one is to have as many, too."""
    return max(0, generations - FALL - (targets - 1)) // targets if targets else 0


def weights(rates: Sequence[float]) -> np.ndarray:
    """Weights of particles by such rates as the MCR: exp(-(rate - least) / spread), summing to 1.

    Returns float64 (particles,).

    The spread is the rates' standard deviation: how much selection there is does not depend on how hard the data are.
    """
    values = np.array(rates, dtype=np.float64)
    spread = values.std()
    raw = np.exp(-(values - values.min()) / spread) if spread > 0 else np.ones(len(values))
    return raw / raw.sum()


def resampled(weights: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Places of `count` particles, each drawn about count * weight times: systematic resampling, Kitagawa 1996."""
    points = (rng.random() + np.arange(count)) / count
    return np.minimum(np.searchsorted(np.cumsum(weights), points), len(weights) - 1).tolist()
