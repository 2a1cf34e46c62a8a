"""The loop around an algorithm, without any network: what is asked, told, kept and reported."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from evoprune.config.schema import SearchConfig
from evoprune.progress import GenerationSummary, SilentProgress
from evoprune.scoring.candidate import Candidate
from evoprune.scoring.conditions import Conditions
from evoprune.search.loop import SearchLoop, batch_candidates, batch_sizes, genome_batch, unscored
from evoprune.workers.protocol import score
from tests.search.made_up import MACS_A_GENE, SIZES, Counting, Kept, algorithm_for, planted, searched, space_of

# --- the loop


def test_no_phenotype_is_scored_twice() -> None:
    """So few genes that most children have been there before."""
    space = space_of(3, 3)
    workers = Counting(space, np.array([1, 0, 0, 1, 1, 0], bool), allowed=1)
    kept = searched(workers, SearchConfig(population=8, generations=12))
    told = [candidate for generation in kept.candidates for candidate in generation]
    assert len(told) == 8 * 13
    assert len(workers.scored) == len(set(workers.scored)) <= 49
    assert workers.scored == [candidate.key for candidate in told if not candidate.cached]
    first: dict[str, Candidate] = {}
    for candidate in told:
        assert candidate.cached == (candidate.key in first)
        assert candidate.score.eval_seconds == (0.0 if candidate.cached else 0.25)
        earlier = first.setdefault(candidate.key, candidate)
        assert (earlier.score.errors, earlier.score.macs) == (candidate.score.errors, candidate.score.macs)


class Watching(SilentProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.done: list[tuple[int, int, int, int]] = []
        self.summaries: list[GenerationSummary] = []

    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        self.done.append((generation, generations, done, total))

    def generation(self, summary: GenerationSummary) -> None:
        self.summaries.append(summary)


def test_candidates_come_in_the_order_of_the_genomes() -> None:
    space = space_of(4)
    workers = Counting(space, np.ones(4, bool), allowed=1)
    genomes = [np.array(bits, np.uint8) for bits in ([1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1])]
    unconditional = Conditions(np.arange(100))
    scores = {space.key(genomes[3]): score(workers, genomes[3:], unconditional)[0].score}
    batch = genome_batch(genomes, 7, unconditional, space)
    new = unscored(batch, scores)
    assert list(new) == [space.key(genome) for genome in genomes[:2]]
    assert list(unscored(batch, scores, {space.key(genomes[0])})) == [space.key(genomes[1])]
    outcomes = score(workers, list(new.values()), unconditional)
    scores |= {key: outcome.score for key, outcome in zip(new, outcomes, strict=True)}
    candidates = batch_candidates(batch, new, scores)
    assert [candidate.genome.tolist() for candidate in candidates] == [genome.tolist() for genome in genomes]
    assert [candidate.cached for candidate in candidates] == [False, False, True, True]
    assert [candidate.score.errors for candidate in candidates] == [0, 1, 0, 2]
    assert [candidate.score.eval_seconds for candidate in candidates] == [0.25, 0.25, 0.0, 0.0]
    assert {candidate.generation for candidate in candidates} == {7}


def test_batches_of_a_generation() -> None:
    assert batch_sizes(SearchConfig(population=24)) == [24]
    assert batch_sizes(SearchConfig(population=24, steady_state=True)) == [3] * 8
    assert batch_sizes(SearchConfig(population=10, steady_state=True)) == [1, 1, 1, 1, 1, 1, 2, 2]
    assert batch_sizes(SearchConfig(population=5, steady_state=True)) == [1] * 5


@dataclass
class Busy(Counting):
    """Keeps how many genomes wait whenever something is collected."""

    left: list[int] = field(default_factory=list)

    def collect(self, ticket: int, on_score: Any) -> Any:
        self.left.append(sum(map(len, self.waiting)))
        return super().collect(ticket, on_score)


@pytest.mark.parametrize("steady", [False, True])
def test_steady_state_keeps_all_workers_busy(steady: bool) -> None:
    """While a part is collected, all the others are with the workers; but at the very end, when there is no more."""
    busy = Busy(space_of(*SIZES), planted(0, 0).useful, allowed=2)
    config = SearchConfig(algorithm="nsga2", population=16, generations=6, steady_state=steady)
    kept = searched(busy, config)
    if steady:
        assert min(busy.left[:-8]) >= 10
    else:
        assert len(busy.left) == 7
    assert [len(generation) for generation in kept.candidates] == [16] * 7
    assert len(busy.scored) == len(set(busy.scored))
    assert kept.algorithm.front


def watch(loop: SearchLoop, kept: Kept, watching: Watching) -> None:
    while loop.has_next():
        generation = loop.next()
        kept.keep(generation)
        watching.generation(generation.summary)


def test_generations_are_reported() -> None:
    workers, watching = planted(0, allowed=2), Watching()
    config = SearchConfig(population=8, generations=3)
    kept = Kept(algorithm_for(workers.space, config))
    watch(SearchLoop(kept.algorithm, workers.space, workers, config, watching, workers.images), kept, watching)
    assert [summary.generation for summary in watching.summaries] == [0, 1, 2, 3]
    for summary, candidates in zip(watching.summaries, kept.candidates, strict=True):
        assert summary.candidates == summary.evaluated + summary.cached == 8
        assert summary.cached == sum(candidate.cached for candidate in candidates)
        assert summary.feasible == sum(bool(candidate.score.feasible) for candidate in candidates)
        assert (summary.generations, summary.full_cost, summary.cost_name) == (3, 30 * MACS_A_GENE, "macs")
    best = kept.algorithm.front[0]
    assert (watching.summaries[-1].best_cost, watching.summaries[-1].best_mcr) == (best.score.macs, best.score.mcr)
    assert watching.summaries[-1].seconds_left == 0


def test_without_a_feasible_candidate_there_is_no_best_one() -> None:
    workers, watching = planted(0, allowed=-1), Watching()
    config = SearchConfig(population=8, generations=1)
    kept = Kept(algorithm_for(workers.space, config))
    watch(SearchLoop(kept.algorithm, workers.space, workers, config, watching, workers.images), kept, watching)
    assert kept.algorithm.front == []
    assert (watching.summaries[-1].best_cost, watching.summaries[-1].feasible) == (None, 0)
