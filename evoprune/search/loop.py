"""The loop of a search: ask for genomes, score the new ones, tell the candidates; by generations or in steady state."""

import time
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evoprune.config.schema import SearchConfig
from evoprune.costs.costs_by_name import find_cost
from evoprune.progress import GenerationSummary, Progress
from evoprune.scoring.candidate import Candidate, Outcome, Score
from evoprune.scoring.candidate_costs import cost_in
from evoprune.scoring.conditions import Conditions, ImageRecord
from evoprune.search.algorithm import Algorithm
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.workers.protocol import Workers

STEADY_STATE_BATCHES = 8
"""Number of batches into which steady-state search divides a generation; so many are always under way."""


@dataclass(frozen=True, eq=False)
class GenomeBatch:
    """Genomes that are asked for and scored together.

    Attributes:
        generation: generation to which they belong.
        genomes: canonical genomes.
        keys: keys of their phenotypes.
        conditions: conditions under which they are scored.
    """

    generation: int
    genomes: tuple[Genome, ...]
    keys: tuple[str, ...]
    conditions: Conditions


@dataclass(frozen=True, eq=False)
class LoopState:
    """The state of a loop between two generations, besides its algorithm's state and the scores.

    Attributes:
        record: how often each validation image was misclassified.
        under_way: batches that were asked for but not told yet; only in steady state.
    """

    record: ImageRecord
    under_way: tuple[GenomeBatch, ...] = ()


@dataclass(frozen=True, eq=False)
class Generation:
    """A completed generation.

    Attributes:
        number: 0 for the first population.
        candidates: in the order in which they were asked for.
        state: state of the loop after it.
        summary: figures for `Progress.generation`.
    """

    number: int
    candidates: tuple[Candidate, ...]
    state: LoopState
    summary: GenerationSummary


class SearchLoop:
    """Runs a search generation by generation: `while loop.has_next(): generation = loop.next()`.

    No phenotype is scored twice. With `config.steady_state`, a batch is asked for as soon as the one
    `STEADY_STATE_BATCHES` before it was told, so that no worker waits for the end of a generation; the candidates
    depend neither on times nor on the number of workers.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        space: SearchSpace,
        workers: Workers,
        config: SearchConfig,
        progress: Progress,
        images: int,
    ):
        """Prepares a search from generation 0.

        Args:
            algorithm: asked for genomes, told their candidates.
            space: search space of the genomes.
            workers: score the genomes.
            config: population, generations, and how candidates are compared.
            progress: receives each score; its `generation` is the caller's to call, once the generation is kept.
            images: number of validation images.
        """
        self._algorithm = algorithm
        self._space = space
        self._workers = workers
        self._config = config
        self._cost = find_cost(config.cost)
        self._progress = progress
        self._sizes = batch_sizes(config)
        self._full_key = space.key(space.full())  # The unpruned network is in every first population.
        self._first_population: list[Genome] = []
        self._start(0, LoopState(ImageRecord.empty(images)), {})

    def restore(
        self, generation: int, algorithm: Mapping[str, Any], state: LoopState, candidates: Sequence[Candidate]
    ) -> None:
        """Continues an earlier search.

        Args:
            generation: number of the next generation.
            algorithm: state of the algorithm after the generation before it.
            state: state of the loop after the generation before it.
            candidates: those of all generations before it, in their order.
        """
        self._algorithm.restore(algorithm, {candidate.key: candidate for candidate in reversed(candidates)})
        self._start(generation, state, {one.key: one.score for one in candidates if not one.cached})

    def _start(self, generation: int, state: LoopState, scores: dict[str, Score]) -> None:
        self._first = self._generation = generation
        self._scores = scores
        self._record = state.record
        self._under_way: deque[_Submitted] = deque()
        for batch in state.under_way:
            self._submit(batch)
        self._asked = generation * len(self._sizes) + len(state.under_way)
        self._conditions = self._present_conditions()
        self._started, self._evaluated = time.perf_counter(), 0

    def has_next(self) -> bool:
        """Whether there is another generation."""
        return self._generation <= self._config.generations

    def next(self) -> Generation:
        """Runs the next generation.

        Raises:
            WorkerError: as `Workers.collect`.
            SearchSpaceError: a genome leaves no connected network.
        """
        number, expected, done = self._generation, 0, 0
        candidates: list[Candidate] = []
        scored: list[tuple[np.ndarray, Sequence[Outcome]]] = []
        for _ in self._sizes:
            while len(self._under_way) < len(self._sizes):
                self._ask()
            submitted = self._under_way.popleft()
            assert submitted.ticket is not None, "batches of the search's generations are scored"
            expected += len(submitted.new)
            outcomes = self._workers.collect(submitted.ticket, self._reporter(number, done, expected))
            done += len(outcomes)
            self._scores.update((key, outcome.score) for key, outcome in zip(submitted.new, outcomes, strict=True))
            told = batch_candidates(submitted.batch, submitted.new, self._scores)
            self._algorithm.tell(told)
            candidates += told
            scored.append((submitted.batch.conditions.order, outcomes))
        self._generation += 1
        self._evaluated += done
        self._record = self._record.updated(scored)
        self._conditions = self._present_conditions()
        state = LoopState(self._record, tuple(submitted.batch for submitted in self._under_way))
        return Generation(number, tuple(candidates), state, self._summary(number, candidates))

    def _ask(self) -> None:
        """Asks for the next batch and hands it to the workers."""
        number, place = divmod(self._asked, len(self._sizes))
        if number == 0:  # The first population is drawn at once.
            self._first_population = self._first_population or self._algorithm.ask(self._config.population)
            genomes = self._first_population[sum(self._sizes[:place]) : sum(self._sizes[: place + 1])]
        else:
            genomes = self._algorithm.ask(self._sizes[place])
        self._submit(genome_batch(genomes, number, self._conditions, self._space))
        self._asked += 1

    def _submit(self, batch: GenomeBatch) -> None:
        """Hands to the workers the genomes of a batch that are neither scored nor submitted before.

        Batches after the last generation are kept but not scored, so that a longer search can go on from here.
        """
        if batch.generation > self._config.generations:
            self._under_way.append(_Submitted(batch, {}, None))
            return
        submitted_before = {key for submitted in self._under_way for key in submitted.new}
        new = unscored(batch, self._scores, submitted_before)
        ticket = self._workers.submit(list(new.values()), batch.conditions)
        self._under_way.append(_Submitted(batch, new, ticket))

    def _present_conditions(self) -> Conditions:
        """The conditions under which the next batches are scored."""
        bounds = self._algorithm.dominance_bounds() if self._config.stop_dominated else ()
        return Conditions(self._record.order(), bounds, self._config.judged_by)

    def _reporter(self, generation: int, done_before: int, expected: int) -> Callable[[int], None]:
        """Reports the scores of a batch as part of their generation's."""
        last = self._config.generations
        return lambda done: self._progress.scored(generation, last, done_before + done, expected)

    def _summary(self, number: int, candidates: Sequence[Candidate]) -> GenerationSummary:
        config, front = self._config, self._algorithm.front
        best = front[0] if front else None
        elapsed = time.perf_counter() - self._started
        return GenerationSummary(
            generation=number,
            generations=config.generations,
            evaluated=sum(not candidate.cached for candidate in candidates),
            cached=sum(candidate.cached for candidate in candidates),
            feasible=sum(bool(candidate.score.feasible) for candidate in candidates),
            candidates=len(candidates),
            best_cost=cost_in(self._cost.column, best.score) if best else None,
            full_cost=cost_in(self._cost.column, self._scores[self._full_key]),
            cost_name=self._cost.name,
            best_mcr=best.score.mcr if best else None,
            evaluations_per_second=self._evaluated / elapsed,
            seconds_left=(config.generations - number) * elapsed / (number - self._first + 1),
        )


@dataclass(frozen=True, eq=False)
class _Submitted:
    """A batch at the workers.

    Attributes:
        batch: the batch.
        new: those of its genomes that the workers score, by key.
        ticket: the workers' ticket; None for a batch that is not scored.
    """

    batch: GenomeBatch
    new: dict[str, Genome]
    ticket: int | None


def batch_sizes(config: SearchConfig) -> list[int]:
    """Number of candidates in each batch of a generation: one batch, or several about even ones in steady state."""
    batches = min(STEADY_STATE_BATCHES, config.population) if config.steady_state else 1
    return [(config.population + place) // batches for place in range(batches)]


def genome_batch(genomes: Sequence[Genome], generation: int, conditions: Conditions, space: SearchSpace) -> GenomeBatch:
    """A batch of these genomes in canonical form.

    Raises:
        SearchSpaceError: a genome leaves no connected network.
    """
    phenotypes = [space.check(genome) for genome in genomes]
    return GenomeBatch(generation, tuple(p.genome for p in phenotypes), tuple(p.key for p in phenotypes), conditions)


def unscored(batch: GenomeBatch, *known: Container[str]) -> dict[str, Genome]:
    """The batch's genomes by key, each phenotype once, in their order, without those that a container has."""
    pairs = zip(batch.keys, batch.genomes, strict=True)
    return {key: genome for key, genome in pairs if not any(key in keys for keys in known)}


def batch_candidates(batch: GenomeBatch, new: Container[str], scores: Mapping[str, Score]) -> list[Candidate]:
    """The batch's candidates, in its order.

    Args:
        batch: the batch.
        new: keys that were scored for this batch; the first candidate of such a key is not cached, all others are.
        scores: scores of all its keys.
    """
    candidates, seen = [], set[str]()
    for key, genome in zip(batch.keys, batch.genomes, strict=True):
        cached = key in seen or key not in new
        seen.add(key)
        score = replace(scores[key], eval_seconds=0.0) if cached else scores[key]
        candidates.append(Candidate(batch.generation, key, genome, score, cached))
    return candidates
