"""The loop of a search: ask, score what is new, tell, report; by generations, or without waiting for their ends."""

import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evoprune.config.schema import SearchConfig
from evoprune.progress import GenerationSummary, Progress
from evoprune.scoring.candidate import Candidate, Outcome, Score
from evoprune.scoring.conditions import Conditions, ImageRecord
from evoprune.search.algorithms import Algorithm
from evoprune.search.objective import score_cost
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.workers.workers import Workers

STEADY_PARTS = 8
"""Into how many parts steady-state search divides a generation: so many are under way at any time."""


@dataclass(frozen=True, eq=False)
class Part:
    """Genomes that were asked for together, and what they are scored under. genomes: canonical; keys: theirs."""

    generation: int
    genomes: tuple[Genome, ...]
    keys: tuple[str, ...]
    conditions: Conditions


@dataclass(frozen=True, eq=False)
class LoopState:
    """Where a loop stands besides its algorithm: what was got wrong so far, and parts asked for but not yet told."""

    record: ImageRecord
    under_way: tuple[Part, ...] = ()


OnGeneration = Callable[[int, Sequence[Candidate], LoopState], None]
"""Told a generation's number and candidates once the algorithm has been told, and where the loop then stands."""


def evolve(
    algorithm: Algorithm,
    space: SearchSpace,
    workers: Workers,
    config: SearchConfig,
    first: int,
    known: dict[str, Score],
    state: LoopState,
    progress: Progress,
    on_generation: OnGeneration,
) -> None:
    """Runs generations `first` to `config.generations`.

    known: scores by key from before; the new ones are added, and no phenotype is scored twice. state: where the loop
    stood after the generation before. By `config.steady_state` a part is asked for as soon as the one STEADY_PARTS
    before it has been told, so that nobody waits for a generation's end; what is asked for after what depends on
    neither times nor the number of workers.
    """
    started, evaluated = time.perf_counter(), 0
    sizes = part_sizes(config)
    under_way: deque[_Asked] = deque()

    def put_under_way(part: Part) -> None:
        scored = part.generation <= config.generations
        under_way.append(_submitted(part, workers, known, under_way) if scored else _Asked(part, {}, None))

    for part in state.under_way:
        put_under_way(part)
    asked, told, end = first * len(sizes) + len(under_way), first * len(sizes), (config.generations + 1) * len(sizes)
    record, starters = state.record, list[Genome]()
    conditions = conditions_now(algorithm, record, config)
    generation = _Generation(first)
    whole = space.key(space.full())  # always in the first population
    while told < end:
        while len(under_way) < len(sizes):
            number, place = divmod(asked, len(sizes))
            if number == 0:  # the first population is one draw
                starters = starters or algorithm.ask(config.population)
                genomes = starters[sum(sizes[:place]) : sum(sizes[: place + 1])]
            else:
                genomes = algorithm.ask(sizes[place])
            put_under_way(part_of(genomes, number, conditions, space))
            asked += 1
        head = under_way.popleft()
        assert head.ticket is not None, "parts that are told are scored"
        generation.expected += len(head.new)
        report = _reporter(progress, generation, config.generations)
        candidates, outcomes = told_by(head.part, head.new, workers.collect(head.ticket, report), known)
        algorithm.tell(candidates)
        generation.candidates += candidates
        generation.scored.append((head.part.conditions.order, outcomes))
        told += 1
        if told % len(sizes):
            continue
        record = record.updated(generation.scored)
        conditions = conditions_now(algorithm, record, config)
        on_generation(generation.number, generation.candidates, LoopState(record, tuple(a.part for a in under_way)))
        evaluated += generation.done
        elapsed = time.perf_counter() - started
        left = (config.generations - generation.number) * elapsed / (generation.number - first + 1)
        full_cost = score_cost(known[whole], config.cost)
        progress.generation(_summary(algorithm, generation.candidates, config, full_cost, evaluated / elapsed, left))
        generation = _Generation(generation.number + 1)


def part_sizes(config: SearchConfig) -> list[int]:
    """How many candidates each part of a generation has: one part, or in steady-state search several even ones."""
    parts = min(STEADY_PARTS, config.population) if config.steady_state else 1
    return [(config.population + place) // parts for place in range(parts)]


def conditions_now(algorithm: Algorithm, record: ImageRecord, config: SearchConfig) -> Conditions:
    """What is scored under when the algorithm stands there."""
    return Conditions(record.order(), algorithm.known() if config.stop_dominated else (), config.judged_by)


def part_of(genomes: Sequence[Genome], generation: int, conditions: Conditions, space: SearchSpace) -> Part:
    """Genomes as a part, canonical. Raises SearchSpaceError where one leaves no whole network."""
    phenotypes = [space.check(genome) for genome in genomes]
    return Part(generation, tuple(p.genome for p in phenotypes), tuple(p.key for p in phenotypes), conditions)


def new_genomes(part: Part, known: Container[str]) -> dict[str, Genome]:
    """The part's genomes by key whose phenotypes are not known, each once, in their order."""
    return {key: genome for key, genome in zip(part.keys, part.genomes, strict=True) if key not in known}


def told_by(
    part: Part, new: dict[str, Genome], outcomes: list[Outcome], known: dict[str, Score]
) -> tuple[list[Candidate], list[Outcome]]:
    """The part's candidates, in its order, and the outcomes of the new ones; their scores are added to `known`."""
    known.update((key, outcome.score) for key, outcome in zip(new, outcomes, strict=True))
    scored, candidates = set(new), []
    for key, genome in zip(part.keys, part.genomes, strict=True):
        cached = key not in scored
        scored.discard(key)  # the next one of the same phenotype in this part was known by then
        score = replace(known[key], eval_seconds=0.0) if cached else known[key]
        candidates.append(Candidate(part.generation, key, genome, score, cached))
    return candidates, outcomes


@dataclass(frozen=True, eq=False)
class _Asked:
    """A part that was asked for. new: what workers score of it; ticket: theirs, None where it is not to be scored."""

    part: Part
    new: dict[str, Genome]
    ticket: int | None


@dataclass
class _Generation:
    """A generation as its parts are told. expected: scores of the parts so far."""

    number: int
    candidates: list[Candidate] = field(default_factory=list)
    scored: list[tuple[np.ndarray, list[Outcome]]] = field(default_factory=list)
    expected: int = 0

    @property
    def done(self) -> int:
        return sum(len(outcomes) for _, outcomes in self.scored)


def _submitted(part: Part, workers: Workers, known: dict[str, Score], under_way: Sequence[_Asked]) -> _Asked:
    """Gives workers what is new of a part: neither known, nor under way in a part before it."""
    new = {key: g for key, g in new_genomes(part, known).items() if not any(key in asked.new for asked in under_way)}
    return _Asked(part, new, workers.submit(list(new.values()), part.conditions))


def _reporter(progress: Progress, generation: _Generation, generations: int) -> Callable[[int], None]:
    before = generation.done
    return lambda done: progress.scored(generation.number, generations, before + done, generation.expected)


def _summary(
    algorithm: Algorithm,
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
        best_cost=score_cost(best.score, config.cost) if best else None,
        full_cost=full_cost,
        cost_name=config.cost,
        best_mcr=best.score.mcr if best else None,
        evaluations_per_second=rate,
        seconds_left=seconds_left,
    )
