"""Search spaces, candidates and workers without any network: what is left can be counted by hand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evoprune.config.schema import SearchConfig
from evoprune.criteria.preferences import Preferences
from evoprune.progress import SilentProgress
from evoprune.record.loop_state import loop_to_json
from evoprune.scoring.candidate import Candidate, Outcome, Score
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.losses import Examples
from evoprune.search.algorithm import Algorithm
from evoprune.search.algorithms import make_algorithm
from evoprune.search.loop import Generation, SearchLoop
from evoprune.space.cost import cost
from evoprune.space.plan import Axis, Genome, Group, Layer, TensorInfo
from evoprune.space.search_space import SearchSpace
from evoprune.training.fit import FitState
from evoprune.workers.protocol import OnEpoch, OnScore
from evoprune.workers.retraining import Retraining

MACS_A_GENE = 30


def space_of(*sizes: int, minimum: int = 1, round_to: int = 1) -> SearchSpace:
    """Groups of so many genes, each of which costs 30 MACs, 3 parameters and 12 bytes."""
    groups, axes, layers, tensors = [], [], [], []
    start = 0
    for number, size in enumerate(sizes):
        weight = f"{number}.weight"
        groups.append(Group(str(number), start, size, (str(number),), minimum, round_to))
        axes.append(Axis(weight, 0, np.arange(start, start + size, dtype=np.int32)))
        layers.append(Layer(str(number), weight, "linear", (size, 3), positions=10))
        tensors.append(TensorInfo(weight, (size, 3), 4, True))
        start += size
    return SearchSpace(tuple(groups), tuple(axes), tuple(layers), (), tuple(tensors))


def preferences(space: SearchSpace, maps: np.ndarray | None = None) -> Preferences:
    """Ranks (and importance) of maps (all alike by default), of a space that has no other genes."""
    ranks = np.zeros(space.maps) if maps is None else maps
    return Preferences(ranks, (), (), importance=ranks)


def candidate(
    errors: int,
    macs: int,
    feasible: bool | None = True,
    key: str | None = None,
    images_seen: int = 100,
    generation: int = 0,
    divergence: float | None = None,
) -> Candidate:
    """A candidate scored on 100 images; params and bytes fall as MACs rise. divergence: None: as the errors."""
    nats = float(errors) if divergence is None else divergence
    score = Score(
        errors, images_seen, 100, feasible, images_seen == 100, macs, 1000 - macs, 2000 - macs, 0.5, divergence=nats
    )
    return Candidate(generation, key or f"{errors}-{macs}", np.ones(1, np.uint8), score, cached=False)


@dataclass
class Counting:
    """Workers for whom a candidate's errors are the useful genes that it lacks. Keeps what was scored.

    useful: bool (genes,). allowed: the most errors of a feasible candidate.
    """

    space: SearchSpace
    useful: np.ndarray
    allowed: int = 0
    images: int = 100
    scored: list[str] = field(default_factory=list)
    count: int = 1

    waiting: list[list[Genome]] = field(default_factory=list)

    def submit(self, genomes: Sequence[Genome], conditions: Conditions) -> int:
        self.waiting.append(list(genomes))
        return len(self.waiting)

    def collect(self, ticket: int, on_score: OnScore) -> list[Outcome]:
        genomes, outcomes = self.waiting.pop(0), []
        for genome in genomes:
            self.scored.append(self.space.key(genome))
            errors = int((self.useful & (genome == 0)).sum())
            price = cost(self.space, genome)
            score = Score(
                errors,
                self.images,
                self.images,
                errors <= self.allowed,
                True,
                price.macs,
                price.params,
                price.bytes,
                eval_seconds=0.25,
                divergence=errors,
            )
            outcomes.append(Outcome.of(score, np.arange(self.images) < errors))
            on_score(len(outcomes))
        return outcomes

    def retrain(
        self, genomes: Sequence[Genome], states: Sequence[FitState | None], retraining: Retraining, on_epoch: OnEpoch
    ) -> list[FitState]:
        raise AssertionError("a search retrains nothing")

    def losses(self, genomes: Sequence[Genome], examples: Examples) -> list[float]:
        """As `collect` counts errors."""
        return [float((self.useful & (genome == 0)).sum()) for genome in genomes]


SIZES = (12, 10, 8)


def planted(seed: int, allowed: int, sizes: Sequence[int] = SIZES) -> Counting:
    """Some two fifths of the genes are useful, at least one of each group; the others go for nothing."""
    space = space_of(*sizes)
    useful = np.random.default_rng(seed).random(space.genes) < 0.4
    useful[[group.start for group in space.groups]] = True
    return Counting(space, useful, allowed)


def algorithm_for(space: SearchSpace, config: SearchConfig, seed: int = 0, maps: np.ndarray | None = None) -> Algorithm:
    """The config's algorithm; maps: ranks."""

    def cost_of(genome: Genome) -> float:
        return float(getattr(cost(space, genome), config.cost))

    return make_algorithm(space, config, preferences(space, maps), cost_of, np.random.default_rng(seed))


@dataclass
class Kept:
    """The record of a search: candidates by generation and, as JSON, the state after each."""

    algorithm: Algorithm
    candidates: list[list[Candidate]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)

    def keep(self, generation: Generation) -> None:
        assert generation.number == len(self.candidates)
        self.loops.append(json.dumps(loop_to_json(generation.state)))
        self.candidates.append(list(generation.candidates))
        self.states.append(json.dumps(self.algorithm.state()))


def searched(workers: Counting, config: SearchConfig, seed: int = 0, maps: np.ndarray | None = None) -> Kept:
    """A whole search; maps: ranks."""
    kept = Kept(algorithm_for(workers.space, config, seed, maps))
    run(loop_for(kept.algorithm, workers, config), kept)
    return kept


def loop_for(algorithm: Algorithm, workers: Counting, config: SearchConfig) -> SearchLoop:
    return SearchLoop(algorithm, workers.space, workers, config, SilentProgress(), workers.images)


def run(loop: SearchLoop, kept: Kept) -> None:
    """The loop to its end, every generation kept."""
    while loop.has_next():
        kept.keep(loop.next())
