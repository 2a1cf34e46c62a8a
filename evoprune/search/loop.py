"""The loop of a search: ask, score what is new, tell, report."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from evoprune.config import SearchConfig
from evoprune.fitness.candidate import Candidate, Outcome, Score
from evoprune.fitness.conditions import Conditions, ImageRecord
from evoprune.fitness.workers import Workers
from evoprune.progress import GenerationSummary, Progress
from evoprune.search.fitness import candidate_cost
from evoprune.search.nsga2 import NSGA2
from evoprune.space.cost import cost
from evoprune.space.plan import Genome, SearchSpace

OnGeneration = Callable[[int, Sequence[Candidate], ImageRecord], None]
"""Told a generation's number, its candidates and what they got wrong once the algorithm has been told."""


def evolve(
    algorithm: NSGA2,
    space: SearchSpace,
    workers: Workers,
    config: SearchConfig,
    first: int,
    known: dict[str, Score],
    record: ImageRecord,
    progress: Progress,
    on_generation: OnGeneration,
) -> None:
    """Runs generations `first` to `config.generations`.

    known: scores by key from before; the new ones are added, and no phenotype is scored twice. record: what the
    generations before got wrong.
    """
    started, evaluated = time.perf_counter(), 0
    full_cost = getattr(cost(space, space.full()), config.cost)
    for generation in range(first, config.generations + 1):
        genomes = algorithm.ask()
        conditions = conditions_now(algorithm.front, record, config)
        candidates, outcomes = evaluate(
            genomes, conditions, generation, space, workers, known, config.generations, progress
        )
        algorithm.tell(candidates)
        record = record.updated(outcomes, conditions.order)
        on_generation(generation, candidates, record)
        evaluated += sum(not candidate.cached for candidate in candidates)
        elapsed = time.perf_counter() - started
        left = (config.generations - generation) * elapsed / (generation - first + 1)
        progress.generation(_summary(algorithm, candidates, config, full_cost, evaluated / elapsed, left))


def conditions_now(front: Sequence[Candidate], record: ImageRecord, config: SearchConfig) -> Conditions:
    """What a generation is scored under that starts when this is the front."""
    steps = [(candidate_cost(candidate, config.cost), candidate.score.errors) for candidate in front]
    return Conditions(record.order(), tuple(steps) if config.stop_dominated else ())


def evaluate(
    genomes: Sequence[Genome],
    conditions: Conditions,
    generation: int,
    space: SearchSpace,
    workers: Workers,
    known: dict[str, Score],
    generations: int,
    progress: Progress,
) -> tuple[list[Candidate], list[Outcome]]:
    """Candidates for these genomes, in their order; each new phenotype is scored once and added to `known`.

    Returns them, and the outcomes of those that were scored now.
    """
    phenotypes = [space.check(genome) for genome in genomes]
    canonical, keys = [p.genome for p in phenotypes], [p.key for p in phenotypes]
    new = {key: genome for key, genome in zip(keys, canonical, strict=True) if key not in known}
    before = set(known)
    outcomes = workers.score(
        list(new.values()), conditions, lambda done: progress.scored(generation, generations, done, len(new))
    )
    known.update((key, outcome.score) for key, outcome in zip(new, outcomes, strict=True))
    candidates = []
    for key, genome in zip(keys, canonical, strict=True):
        cached = key in before
        before.add(key)
        score = replace(known[key], eval_seconds=0.0) if cached else known[key]
        candidates.append(Candidate(generation, key, genome, score, cached))
    return candidates, outcomes


def _summary(
    algorithm: NSGA2,
    candidates: Sequence[Candidate],
    config: SearchConfig,
    full_cost: int,
    rate: float,
    seconds_left: float,
) -> GenerationSummary:
    best = algorithm.front[0] if algorithm.front else None
    return GenerationSummary(
        generation=candidates[0].generation,
        generations=config.generations,
        evaluated=sum(not candidate.cached for candidate in candidates),
        cached=sum(candidate.cached for candidate in candidates),
        feasible=sum(bool(candidate.score.feasible) for candidate in candidates),
        candidates=len(candidates),
        best_cost=candidate_cost(best, config.cost) if best else None,
        full_cost=full_cost,
        cost_name=config.cost,
        best_mcr=best.score.mcr if best else None,
        evaluations_per_second=rate,
        seconds_left=seconds_left,
    )
