"""The methods that a study compares, by name: each chooses a genome for every target."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import numpy as np
import torch

from evoprune.bench.study.study_config import StudyConfig, network_config
from evoprune.bench.study.torch_pruning_choices import IMPORTANCES, torch_pruning_genome
from evoprune.config.schedules import Schedule
from evoprune.config.schema import Algorithm, Config, CriterionName, RetrainStart, Scope, SearchConfig
from evoprune.criteria.criterion import CriterionContext
from evoprune.criteria.registry import CRITERIA, map_importance
from evoprune.data.load import Data
from evoprune.errors import ConfigError
from evoprune.pipeline.posing import criterion_context, set_up_search
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

TORCH_PRUNING, RANKING, UNSTRUCTURED, SMALL_DENSE = "torch_pruning", "ranking", "unstructured", "small_dense"

SINGLE_WEIGHTS: Mapping[str, CriterionName] = {"magnitude": "l1", "obd": "obd", "synflow": "synflow"}
"""What single weights are ranked by, and the criterion that says it."""

SCOPES = get_args(Scope)
SCHEDULES = tuple(name for name in get_args(Schedule) if name != "one_shot")
STARTS = tuple(name for name in get_args(RetrainStart) if name != "keep")

Kind = Literal["search", "torch_pruning", "ranking", "scheduled", "unstructured", "small_dense"]


@dataclass(frozen=True)
class Method:
    """A method by its name: `what:by:scope:schedule@start`, each part but the first where there is such a choice.

    start: what its networks are retrained from, as `retrain.start`. taught: they are distilled where `retrain` says so.
    """

    name: str
    kind: Kind
    by: str = ""
    scope: Scope = "local"
    schedule: Schedule = "one_shot"
    start: RetrainStart = "keep"
    taught: bool = True

    @property
    def at_once(self) -> bool:
        """Whether its networks are trained while they are chosen, or are not those of genomes alone."""
        return self.kind in ("scheduled", "unstructured")


@dataclass(frozen=True, eq=False)
class Chosen:
    """What a method chose: a genome for every target; scores: candidates scored for all of them; seconds: likewise."""

    genomes: tuple[Genome, ...]
    scores: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Bench:
    """What methods choose with: a problem, who scores it, and the data. targets: shares of the whole cost.

    searches: by name, how a search goes that is a method.
    """

    problem: Problem
    workers: Workers
    data: Data
    config: Config
    searches: Mapping[str, SearchConfig]
    targets: tuple[float, ...]
    device: torch.device
    progress: Progress

    @property
    def costs(self) -> tuple[float, ...]:
        """The targets as costs."""
        return tuple(self.cost_at(share) for share in self.targets)

    def cost_at(self, share: float) -> float:
        """That share of the whole cost."""
        return share * self.problem.cost_of(self.problem.space.full())


def methods_of(study: StudyConfig) -> tuple[Method, ...]:
    """The study's methods.

    Raises ConfigError where a name is no method's, or a method does not go with the study's other keys.
    """
    methods = tuple(_method(name, study) for name in study.methods)
    for network in study.networks:
        config = network_config(study, network)
        for method in methods:
            _check(method, config, study.steps, f"methods: {method.name}")
    return methods


def _method(name: str, study: StudyConfig) -> Method:
    if name in study.variants:
        return Method(name, "search", by=name)
    base, at, start = name.partition("@")
    method = next((method for method in known_methods() if method.name == base), None)
    can_start = method is not None and not method.at_once and method.kind != SMALL_DENSE
    if method is None or (at and not (can_start and start in STARTS)):
        raise ConfigError(f"methods: {name!r} is none; take some of {', '.join((*study.variants, *_patterns()))}")
    return replace(method, name=name, start=cast(RetrainStart, start) if at else method.start)


def _check(method: Method, config: Config, steps: int, place: str) -> None:
    retrained, trained = config.retrain.epochs, config.train.epochs
    if config.retrain.start != "keep":
        raise ConfigError(
            f"base.retrain.start must be keep here, not {config.retrain.start}; write METHOD@START instead"
        )
    if method.kind == UNSTRUCTURED and config.search.cost != "params":
        raise ConfigError(
            f"{place}: goes with base.search.cost params, not {config.search.cost}, for it saves nothing else"
        )
    if method.kind == "scheduled" and config.search.cost == "latency_ms":
        raise ConfigError(f"{place}: does not go with base.search.cost latency_ms; take macs, params or bytes")
    if method.kind == "scheduled" and retrained % steps:
        raise ConfigError(
            f"{place}: base.retrain.epochs must be a multiple of steps ({steps}), not {retrained}, so that it is "
            "trained for as long as the others"
        )
    if method.start.startswith("rewind") and retrained > trained:
        raise ConfigError(f"{place}: train.epochs must be at least base.retrain.epochs ({retrained}), not {trained}")


def known_methods() -> tuple[Method, ...]:
    """All that there are, but for a study's own variants and other starts of retraining."""
    searches = (Method(name, "search", by=name) for name in get_args(Algorithm))
    pruners = (
        Method(f"{TORCH_PRUNING}:{by}:{scope}", "torch_pruning", by, scope) for by in IMPORTANCES for scope in SCOPES
    )
    rankings = [Method(f"{RANKING}:{by}:{scope}", "ranking", by, scope) for by in CRITERIA for scope in SCOPES]
    scheduled = (
        Method(f"{one.name}:{schedule}", "scheduled", one.by, one.scope, schedule)
        for one in rankings
        for schedule in SCHEDULES
    )
    unstructured = (
        Method(f"{UNSTRUCTURED}:{by}:{scope}", "unstructured", by, scope) for by in SINGLE_WEIGHTS for scope in SCOPES
    )
    small = (
        Method(SMALL_DENSE, "small_dense", start="anew", taught=False),
        Method(f"{SMALL_DENSE}:distilled", "small_dense", start="anew"),
    )
    return (*searches, *pruners, *rankings, *scheduled, *unstructured, *small)


def _patterns() -> tuple[str, ...]:
    """The same, short."""
    scope = f"({'|'.join(SCOPES)})"
    return (
        *get_args(Algorithm),
        f"{TORCH_PRUNING}:({'|'.join(IMPORTANCES)}):{scope}",
        f"{RANKING}:({'|'.join(CRITERIA)}):{scope}[:({'|'.join(SCHEDULES)})]",
        f"{UNSTRUCTURED}:({'|'.join(SINGLE_WEIGHTS)}):{scope}",
        f"{SMALL_DENSE}[:distilled]; those that choose at once also with @({'|'.join(STARTS)})",
    )


def searches_of(study: StudyConfig, network: str) -> dict[str, SearchConfig]:
    """How each search goes that is a method: every algorithm as the network's config has it, and the variants."""
    plain = network_config(study, network).search
    algorithms = {name: plain.model_copy(update={"algorithm": name}) for name in get_args(Algorithm)}
    return algorithms | {name: network_config(study, network, variant=name).search for name in study.variants}


def choose(bench: Bench, method: Method, seed: int) -> Chosen:
    """What the method chooses with this seed; those that draw nothing choose the same with every one."""
    started = time.perf_counter()
    genomes, scores = _choice(bench, method, seed)
    return Chosen(genomes, scores, time.perf_counter() - started)


def _choice(bench: Bench, method: Method, seed: int) -> tuple[tuple[Genome, ...], int]:
    """A genome for every target, and how many were scored."""
    problem, space = bench.problem, bench.problem.space
    match method.kind:
        case "search":
            return _searched(bench, bench.searches[method.by], seed)
        case "small_dense":
            return tuple(even_widths(problem, cost) for cost in bench.costs), 0
        case "torch_pruning":
            across = method.scope == "global"
            train = bench.data.train
            return tuple(torch_pruning_genome(problem, train, method.by, across, cost) for cost in bench.costs), 0
        case "ranking":
            subject = subject_in(bench, seed)
            values = map_importance(cast(CriterionName, method.by), subject)
            ranked = (ranked_genome(space, values, cost, method.scope, problem.cost_of) for cost in bench.costs)
            return tuple(ranked), 0
        case "scheduled" | "unstructured":
            raise AssertionError(f"{method.name} is trained while it chooses: see study_starts")


def subject_in(bench: Bench, seed: int) -> CriterionContext:
    """What criteria look at, with a seed of the study's."""
    most_gram_bytes = gram_bytes(bench.config.workers)
    return criterion_context(bench.problem, bench.workers, bench.data.calibration, seed, bench.device, most_gram_bytes)


def even_widths(problem: Problem, target: float) -> Genome:
    """Every group's first maps, the same share of each, at the target's cost: as a network built that narrow has."""
    space = problem.space
    return fit_to_cost(space, space.full(), target, problem.cost_of, -np.arange(space.genes, dtype=np.float64))


def _searched(bench: Bench, config: SearchConfig, seed: int) -> tuple[tuple[Genome, ...], int]:
    """The best genome found for each target, by one search for all of them, and how many were scored."""
    problem, space = bench.problem, bench.problem.space
    objective = Objective(config.cost, bench.costs, config.judged_by)
    algorithm = set_up_search(problem, config, seed, subject_in(bench, seed))
    loop = SearchLoop(algorithm, space, bench.workers, config, bench.progress, len(problem.labels))
    told: list[Candidate] = []
    while loop.has_next():
        generation = loop.next()
        told += generation.candidates
        bench.progress.generation(generation.summary)
    return tuple(_best(told, cost, objective) for cost in bench.costs), sum(not one.cached for one in told)


def _best(told: Sequence[Candidate], target: float, objective: Objective) -> Genome:
    """Of the candidates scored to their end that cost no more than the target, the one that is best as judged."""
    within = [one for one in told if one.score.exact and objective.cost_of(one) <= target]
    if not within:
        cheapest = min(objective.cost_of(one) for one in told)
        raise ConfigError(f"no candidate cost {target:g} or less (the least was {cheapest:g}); give more generations")
    return min(within, key=lambda one: (objective.fitness_of(one), objective.cost_of(one), one.key)).genome
