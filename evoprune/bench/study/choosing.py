"""The choice of a genome for every target, by each kind of method that chooses genomes alone."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from evoprune.bench.study.methods import Method
from evoprune.bench.study.torch_pruning_choices import torch_pruning_genome
from evoprune.config.choices import CriterionName
from evoprune.config.schema import Config, RetrainConfig, SearchConfig
from evoprune.criteria.criterion import CriterionContext
from evoprune.criteria.importance_by_name import map_importance
from evoprune.data.load import Data
from evoprune.errors import ConfigError
from evoprune.pipeline.posing import criterion_context, set_up_search
from evoprune.pipeline.stages import retraining_with
from evoprune.progress import Progress
from evoprune.scoring.batching import gram_bytes
from evoprune.scoring.candidate import Candidate
from evoprune.scoring.scorer import Problem
from evoprune.search.fit_to_cost import fit_to_cost
from evoprune.search.loop import SearchLoop
from evoprune.search.objective import Objective
from evoprune.search.ranking import ranked_genome
from evoprune.space.plan import Genome
from evoprune.workers.protocol import Workers
from evoprune.workers.retraining import Retraining


@dataclass(frozen=True, eq=False)
class MethodContext:
    """The input of a study's methods for one network.

    Attributes:
        problem: the network as a problem.
        workers: score and retrain its candidates.
        data: its data.
        config: its experiment.
        searches: settings of the methods that are searches, by name.
        targets: shares of the unpruned cost.
        steps: number of rounds of methods with a schedule.
        device: on which this process computes.
        progress: receives the stages.
    """

    problem: Problem
    workers: Workers
    data: Data
    config: Config
    searches: Mapping[str, SearchConfig]
    targets: tuple[float, ...]
    steps: int
    device: torch.device
    progress: Progress

    @property
    def costs(self) -> tuple[float, ...]:
        """The targets as costs."""
        return tuple(self.cost_at(share) for share in self.targets)

    def cost_at(self, share: float) -> float:
        """A share of the unpruned cost as a cost."""
        return share * self.problem.cost_of(self.problem.space.full())

    def criterion_inputs(self, seed: int) -> CriterionContext:
        """The input of criteria."""
        most_gram_bytes = gram_bytes(self.config.workers)
        return criterion_context(self.problem, self.workers, self.data.calibration, seed, self.device, most_gram_bytes)

    def retraining(self, settings: RetrainConfig, seed: int) -> Retraining:
        """Retraining on the training images by these settings."""
        return retraining_with(settings, self.config, self.data.train, seed)


@dataclass(frozen=True, eq=False)
class ChosenGenomes:
    """The choice of a method.

    Attributes:
        genomes: one for every target.
        scores: number of candidates scored, for all targets together.
        seconds: duration, for all targets together.
    """

    genomes: tuple[Genome, ...]
    scores: int
    seconds: float


def choose(context: MethodContext, method: Method, seed: int) -> ChosenGenomes:
    """The choice of a method with a seed; methods without random draws choose the same with every one."""
    started = time.perf_counter()
    genomes, scores = _choice(context, method, seed)
    return ChosenGenomes(genomes, scores, time.perf_counter() - started)


def _choice(context: MethodContext, method: Method, seed: int) -> tuple[tuple[Genome, ...], int]:
    """A genome for every target, and the number of candidates scored."""
    problem, space = context.problem, context.problem.space
    match method.kind:
        case "search":
            return _searched(context, context.searches[method.by], seed)
        case "small_dense":
            return tuple(even_widths(problem, cost) for cost in context.costs), 0
        case "torch_pruning":
            across, train = method.scope == "global", context.data.train
            return tuple(torch_pruning_genome(problem, train, method.by, across, cost) for cost in context.costs), 0
        case "ranking":
            values = map_importance(cast(CriterionName, method.by), context.criterion_inputs(seed))
            ranked = (ranked_genome(space, values, cost, method.scope, problem.cost_of) for cost in context.costs)
            return tuple(ranked), 0
        case "scheduled" | "unstructured":
            raise AssertionError(f"{method.name} trains while it chooses: see `starts`")


def even_widths(problem: Problem, target: float) -> Genome:
    """The genome of the first maps of every group, the same share of each: a network built that narrow."""
    space = problem.space
    return fit_to_cost(space, space.full(), target, problem.cost_of, -np.arange(space.genes, dtype=np.float64))


def _searched(context: MethodContext, config: SearchConfig, seed: int) -> tuple[tuple[Genome, ...], int]:
    """The best genome for each target, of one search for all of them, and the number of candidates scored."""
    problem, progress = context.problem, context.progress
    algorithm = set_up_search(problem, config, seed, context.criterion_inputs(seed))
    loop = SearchLoop(algorithm, problem.space, context.workers, config, progress, len(problem.images))
    candidates: list[Candidate] = []
    while loop.has_next():
        generation = loop.next()
        candidates += generation.candidates
        progress.generation(generation.summary)
    objective = Objective(problem.cost.column, context.costs, config.judged_by)
    best = tuple(_best_within(candidates, cost, objective) for cost in context.costs)
    return best, sum(not one.cached for one in candidates)


def _best_within(candidates: Sequence[Candidate], target: float, objective: Objective) -> Genome:
    """The genome of the best candidate that costs no more than the target and was scored on all images."""
    within = [one for one in candidates if one.score.exact and objective.cost_of(one) <= target]
    if not within:
        cheapest = min(objective.cost_of(one) for one in candidates)
        raise ConfigError(
            f"no candidate costs {target:g} or less (the lowest cost is {cheapest:g}); raise search.generations"
        )
    return min(within, key=lambda one: (objective.fitness_of(one), objective.cost_of(one), one.key)).genome
