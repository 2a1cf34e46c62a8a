"""The loop of a search: ask, score what is new, tell, report."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from evoprune.config import SearchConfig
from evoprune.fitness.candidate import Candidate, Score
from evoprune.fitness.workers import Workers
from evoprune.progress import GenerationSummary, Progress
from evoprune.search.fitness import candidate_cost, score_cost
from evoprune.search.nsga2 import NSGA2
from evoprune.space.plan import Genome, SearchSpace

OnGeneration = Callable[[int, Sequence[Candidate]], None]
"""Told a generation's number and candidates once the algorithm has been told."""


def evolve(
    algorithm: NSGA2,
    space: SearchSpace,
    workers: Workers,
    config: SearchConfig,
    first: int,
    known: dict[str, Score],
    progress: Progress,
    on_generation: OnGeneration,
) -> None:
    """Runs generations `first` to `config.generations`.

    known: scores by key from before; the new ones are added, and no phenotype is scored twice.
    """
    started, evaluated = time.perf_counter(), 0
    whole = space.key(space.full())  # always in the first population
    for generation in range(first, config.generations + 1):
        genomes = algorithm.ask()
        candidates = evaluate(genomes, generation, space, workers, known, config.generations, progress)
        algorithm.tell(candidates)
        on_generation(generation, candidates)
        evaluated += sum(not candidate.cached for candidate in candidates)
        elapsed = time.perf_counter() - started
        left = (config.generations - generation) * elapsed / (generation - first + 1)
        progress.generation(
            _summary(algorithm, candidates, config, score_cost(known[whole], config.cost), evaluated / elapsed, left)
        )


def evaluate(
    genomes: Sequence[Genome],
    generation: int,
    space: SearchSpace,
    workers: Workers,
    known: dict[str, Score],
    generations: int,
    progress: Progress,
) -> list[Candidate]:
    """Candidates for these genomes, in their order; each new phenotype is scored once and added to `known`."""
    canonical = [space.canonical(genome) for genome in genomes]
    keys = [space.key(genome) for genome in canonical]
    new = {key: genome for key, genome in zip(keys, canonical, strict=True) if key not in known}
    before = set(known)
    scores = workers.score(list(new.values()), lambda done: progress.scored(generation, generations, done, len(new)))
    known.update(zip(new, scores, strict=True))
    candidates = []
    for key, genome in zip(keys, canonical, strict=True):
        cached = key in before
        before.add(key)
        score = replace(known[key], eval_seconds=0.0) if cached else known[key]
        candidates.append(Candidate(generation, key, genome, score, cached))
    return candidates


def _summary(
    algorithm: NSGA2,
    candidates: Sequence[Candidate],
    config: SearchConfig,
    full_cost: float,
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
