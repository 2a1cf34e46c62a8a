"""The methods that a study compares, by name: each chooses a genome for every target."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from evoprune.bench.study_config import StudyConfig, network_config
from evoprune.bench.torch_pruning_choices import IMPORTANCES, torch_pruning_genome
from evoprune.config import Algorithm, SearchConfig
from evoprune.errors import ConfigError
from evoprune.fitness.candidate import Candidate
from evoprune.fitness.conditions import ImageRecord
from evoprune.fitness.scoring import Problem
from evoprune.fitness.workers import Workers
from evoprune.nets.data import Data
from evoprune.progress import Progress
from evoprune.search.algorithms import make_algorithm
from evoprune.search.criteria import preferences_of
from evoprune.search.fitting import fitted
from evoprune.search.loop import LoopState, evolve
from evoprune.search.objective import Objective
from evoprune.space.plan import Genome
from evoprune.stages import SEARCH_SEED, subject_of

TORCH_PRUNING = "torch_pruning"
SMALL_DENSE = "small_dense"

SCOPES = ("local", "global")


@dataclass(frozen=True, eq=False)
class Chosen:
    """What a method chose: a genome for every target; scores: candidates scored for all of them; seconds: likewise.

    anew: the network is not pruned but trained from a fresh start.
    """

    genomes: tuple[Genome, ...]
    scores: int
    seconds: float
    anew: bool = False


@dataclass(frozen=True, eq=False)
class Bench:
    """What methods choose with: a problem, who scores it, and the data. targets: shares of the whole cost.

    searches: by name, how a search goes that is a method.
    """

    problem: Problem
    workers: Workers
    data: Data
    searches: Mapping[str, SearchConfig]
    targets: tuple[float, ...]
    device: torch.device
    progress: Progress

    @property
    def costs(self) -> tuple[float, ...]:
        """The targets as costs."""
        whole = self.problem.cost_of(self.problem.space.full())
        return tuple(share * whole for share in self.targets)


def check_methods(names: Sequence[str], variants: Iterable[str]) -> None:
    """Raises ConfigError where one is no method. variants: those of the study's own."""
    known = (*variants, *method_names())
    for name in names:
        if name not in known:
            raise ConfigError(f"methods: {name!r} is none; take some of {', '.join(known)}")


def searches_of(study: StudyConfig, network: str) -> dict[str, SearchConfig]:
    """How each search goes that is a method: every algorithm as the network's config has it, and the variants."""
    plain = network_config(study, network).search
    algorithms = {name: plain.model_copy(update={"algorithm": name}) for name in get_args(Algorithm)}
    return algorithms | {name: network_config(study, network, variant=name).search for name in study.variants}


def method_names() -> tuple[str, ...]:
    """All that there are: search algorithms, Torch-Pruning's importances by scope, a small dense network."""
    pruners = (f"{TORCH_PRUNING}:{importance}:{scope}" for importance in IMPORTANCES for scope in SCOPES)
    return (*get_args(Algorithm), *pruners, SMALL_DENSE)


def choose(bench: Bench, method: str, seed: int) -> Chosen:
    """What the method chooses with this seed; those that draw nothing choose the same with every one."""
    started = time.perf_counter()
    if method in bench.searches:
        genomes, scores = _searched(bench, bench.searches[method], seed)
        return Chosen(genomes, scores, time.perf_counter() - started)
    if method == SMALL_DENSE:
        return Chosen(tuple(even_widths(bench.problem, cost) for cost in bench.costs), 0, 0.0, anew=True)
    _, importance, scope = method.split(":")
    chosen = tuple(
        torch_pruning_genome(bench.problem, bench.data.train, importance, scope == "global", cost)
        for cost in bench.costs
    )
    return Chosen(chosen, 0, time.perf_counter() - started)


def even_widths(problem: Problem, target: float) -> Genome:
    """Every group's first maps, the same share of each, at the target's cost: as a network built that narrow has."""
    space = problem.space
    return fitted(space, space.full(), target, problem.cost_of, -np.arange(space.genes, dtype=np.float64))


def _searched(bench: Bench, config: SearchConfig, seed: int) -> tuple[tuple[Genome, ...], int]:
    """The best genome found for each target, by one search for all of them, and how many were scored."""
    problem, space = bench.problem, bench.problem.space
    rng = np.random.default_rng([seed, SEARCH_SEED])
    preferences = preferences_of(
        config.ranked_by, subject_of(problem, bench.workers, bench.data.calibration, seed, bench.device)
    )
    maker = make_algorithm(space, config, preferences, problem.cost_of, rng)
    told: list[Candidate] = []

    def keep(generation: int, candidates: Sequence[Candidate], state: LoopState) -> None:
        told.extend(candidates)

    start = LoopState(ImageRecord.empty(len(problem.labels)))
    evolve(maker, space, bench.workers, config, 0, {}, start, bench.progress, keep)
    objective = Objective(config.cost, bench.costs)
    return tuple(_best(told, cost, objective) for cost in bench.costs), sum(not one.cached for one in told)


def _best(told: Sequence[Candidate], target: float, objective: Objective) -> Genome:
    """Of the candidates scored to their end that cost no more than the target, the one of fewest errors."""
    within = [one for one in told if one.score.exact and objective.cost_of(one) <= target]
    if not within:
        cheapest = min(objective.cost_of(one) for one in told)
        raise ConfigError(f"no candidate cost {target:g} or less (the least was {cheapest:g}); give more generations")
    return min(within, key=lambda one: (one.score.errors, objective.cost_of(one), one.key)).genome
