"""The algorithm on a problem whose answer is known, without any network; its state; the loop around it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from evoprune.config import SearchConfig
from evoprune.fitness.candidate import Candidate
from evoprune.fitness.conditions import Conditions, ImageRecord
from evoprune.fitness.workers import score
from evoprune.progress import GenerationSummary, SilentProgress
from evoprune.record.loop_state import loop_from_json, loop_to_json
from evoprune.search.loop import LoopState, evolve, new_genomes, part_of, part_sizes, told_by
from evoprune.search.nsga2 import NSGA2
from evoprune.space.plan import SearchSpace
from tests.search.made_up import MACS_A_GENE, Counting, preferences, space_of

SIZES = (12, 10, 8)
SILENT = SilentProgress()
START = LoopState(ImageRecord.empty(100))


def planted(seed: int, allowed: int) -> Counting:
    """Some two fifths of the genes are useful, at least one of each group; the others go for nothing."""
    space = space_of(*SIZES)
    useful = np.random.default_rng(seed).random(space.genes) < 0.4
    useful[[group.start for group in space.groups]] = True
    return Counting(space, useful, allowed)


def algorithm_for(space: SearchSpace, config: SearchConfig, seed: int = 0) -> NSGA2:
    return NSGA2(space, config, preferences(space), np.random.default_rng(seed))


@dataclass
class Kept:
    """What a search keeps: candidates by generation and, as JSON, the state after each."""

    algorithm: NSGA2
    candidates: list[list[Candidate]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)

    def __call__(self, generation: int, candidates: Sequence[Candidate], state: LoopState) -> None:
        assert generation == len(self.candidates)
        self.loops.append(json.dumps(loop_to_json(state)))
        self.candidates.append(list(candidates))
        self.states.append(json.dumps(self.algorithm.state()))


def searched(workers: Counting, config: SearchConfig, seed: int = 0) -> Kept:
    kept = Kept(algorithm_for(workers.space, config, seed))
    evolve(kept.algorithm, workers.space, workers, config, 0, {}, START, SILENT, kept)
    return kept


def plain(candidates: Sequence[Candidate]) -> list[tuple[Any, ...]]:
    """Candidates without the arrays, for which == means something else."""
    return [(c.generation, c.key, c.genome.tolist(), c.score, c.cached) for c in candidates]


# --- finding what was planted


@pytest.mark.parametrize("seed", range(3))
def test_the_planted_useless_genes_are_found(seed: int) -> None:
    """Without tolerance there is one best genome: the useful genes and no other."""
    workers = planted(seed, allowed=0)
    config = SearchConfig(population=24, generations=100, mutation_rate=0.05)
    [best] = searched(workers, config, seed).algorithm.front
    assert best.genome.tolist() == workers.useful.astype(int).tolist()
    assert best.score.macs == MACS_A_GENE * workers.useful.sum()


@pytest.mark.parametrize("cost", ["macs", "params", "bytes"])
def test_the_front_trades_errors_for_cost_within_the_tolerance(cost: Any) -> None:
    """With 3 errors allowed, three useful genes may go too: 3, 2, 1 and 0 errors each have their cheapest genome."""
    workers = planted(1, allowed=3)
    config = SearchConfig(population=24, generations=100, mutation_rate=0.05, cost=cost)
    front = searched(workers, config).algorithm.front
    useful = int(workers.useful.sum())
    found = {(candidate.score.errors, int(candidate.genome.sum())) for candidate in front}
    assert found == {(errors, useful - errors) for errors in range(4)}


def test_the_front_is_kept_over_all_generations() -> None:
    """No candidate ever told is feasible and better than what is on the front at the end."""
    workers = planted(2, allowed=3)
    kept = searched(workers, SearchConfig(population=8, generations=20))
    on_front = {(c.score.errors, c.score.macs) for c in kept.algorithm.front}
    told = {(c.score.errors, c.score.macs) for generation in kept.candidates for c in generation if c.score.feasible}
    for errors, macs in told:
        assert any(e <= errors and m <= macs for e, m in on_front)
    assert on_front <= told


# --- asking and telling


def test_the_first_generation_begins_with_the_whole_network() -> None:
    space = space_of(*SIZES)
    genomes = algorithm_for(space, SearchConfig(population=10)).ask(10)
    assert genomes[0].tolist() == [1] * 30
    assert len(genomes) == 10


def test_children_come_from_survivors_alone() -> None:
    """Without crossover and with one gene a mutation, a child differs from one of the population in a swap at most."""
    workers = planted(0, allowed=1)
    config = SearchConfig(population=8, generations=1, crossover_rate=0.0, mutation_rate=0.0)
    kept = searched(workers, config)
    parents = np.stack([candidate.genome for candidate in kept.candidates[0]]).astype(int)
    for child in kept.candidates[1]:
        assert np.abs(parents - child.genome).sum(1).min() <= 2


def test_the_same_generator_gives_the_same_search() -> None:
    config = SearchConfig(population=8, generations=6)
    one, two, other = (searched(planted(0, allowed=2), config, seed) for seed in (5, 5, 6))
    assert [plain(generation) for generation in one.candidates] == [plain(g) for g in two.candidates]
    assert one.states == two.states
    assert one.states != other.states


@pytest.mark.parametrize("steady", [False, True], ids=["by generation", "steady state"])
@pytest.mark.parametrize("after", [0, 2, 5])
def test_a_restored_state_goes_on_exactly(after: int, steady: bool) -> None:
    """Through JSON, as a snapshot; nothing is scored again that was scored before."""
    config = SearchConfig(population=12, generations=6, steady_state=steady)
    workers = planted(0, allowed=2)
    whole = searched(workers, config)
    told = [candidate for generation in whole.candidates[: after + 1] for candidate in generation]
    resumed = Kept(algorithm_for(workers.space, config, seed=99), whole.candidates[: after + 1])
    resumed.algorithm.restore(json.loads(whole.states[after]), {c.key: c for c in reversed(told)})
    again, stood = planted(0, allowed=2), loop_from_json(json.loads(whole.loops[after]))
    known = {candidate.key: candidate.score for candidate in told if not candidate.cached}
    evolve(resumed.algorithm, again.space, again, config, after + 1, known, stood, SILENT, resumed)
    assert [plain(generation) for generation in resumed.candidates] == [plain(g) for g in whole.candidates]
    assert resumed.states == whole.states[after + 1 :]
    assert [c.key for c in resumed.algorithm.front] == [c.key for c in whole.algorithm.front]
    assert resumed.loops == whole.loops[after + 1 :]
    assert workers.scored == [c.key for c in told if not c.cached] + again.scored


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
    known = {space.key(genomes[3]): score(workers, genomes[3:], unconditional)[0].score}
    part = part_of(genomes, 7, unconditional, space)
    new = new_genomes(part, known)
    assert list(new) == [space.key(genome) for genome in genomes[:2]]
    candidates, outcomes = told_by(part, new, score(workers, list(new.values()), unconditional), known)
    assert [candidate.genome.tolist() for candidate in candidates] == [genome.tolist() for genome in genomes]
    assert [candidate.cached for candidate in candidates] == [False, False, True, True]
    assert [candidate.score.errors for candidate in candidates] == [0, 1, 0, 2]
    assert [outcome.score for outcome in outcomes] == [candidates[0].score, candidates[1].score]
    assert {candidate.generation for candidate in candidates} == {7}
    assert known.keys() == {candidate.key for candidate in candidates}


def test_parts_of_a_generation() -> None:
    assert part_sizes(SearchConfig(population=24)) == [24]
    assert part_sizes(SearchConfig(population=24, steady_state=True)) == [3] * 8
    assert part_sizes(SearchConfig(population=10, steady_state=True)) == [1, 1, 1, 1, 1, 1, 2, 2]
    assert part_sizes(SearchConfig(population=5, steady_state=True)) == [1] * 5


@dataclass
class Busy(Counting):
    """Keeps how many genomes wait whenever something is collected."""

    left: list[int] = field(default_factory=list)

    def collect(self, ticket: int, on_score: Any) -> Any:
        self.left.append(sum(map(len, self.waiting)))
        return super().collect(ticket, on_score)


@pytest.mark.parametrize("steady", [False, True])
def test_steady_state_leaves_nobody_waiting(steady: bool) -> None:
    """While a part is collected, all the others are with the workers; but at the very end, when there is no more."""
    busy = Busy(space_of(*SIZES), planted(0, 0).useful, allowed=2)
    config = SearchConfig(population=16, generations=6, steady_state=steady)
    kept = searched(busy, config)
    if steady:
        assert min(busy.left[:-8]) >= 10
    else:
        assert len(busy.left) == 7
    assert [len(generation) for generation in kept.candidates] == [16] * 7
    assert len(busy.scored) == len(set(busy.scored))
    assert kept.algorithm.front


def test_generations_are_reported() -> None:
    workers, watching = planted(0, allowed=2), Watching()
    config = SearchConfig(population=8, generations=3)
    kept = Kept(algorithm_for(workers.space, config))
    evolve(kept.algorithm, workers.space, workers, config, 0, {}, START, watching, kept)
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
    evolve(kept.algorithm, workers.space, workers, config, 0, {}, START, watching, kept)
    assert kept.algorithm.front == []
    assert (watching.summaries[-1].best_cost, watching.summaries[-1].feasible) == (None, 0)
