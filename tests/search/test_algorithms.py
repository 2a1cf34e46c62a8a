"""Every algorithm on problems whose answer is known, without any network; their states."""

import json
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest

from evoprune.config.choices import AlgorithmName, Scope
from evoprune.config.schema import SearchConfig
from evoprune.errors import ConfigError, PluginError
from evoprune.record.loop_state import loop_from_json
from evoprune.scoring.candidate import Candidate
from evoprune.search.algorithms import ALGORITHMS as REGISTRY
from evoprune.search.particle_filter import particle_weights, systematic_resample
from evoprune.search.ranking import rank_maps, top_ranked
from tests.search.made_up import (
    MACS_A_GENE,
    SIZES,
    Counting,
    Kept,
    algorithm_for,
    candidate,
    loop_for,
    planted,
    run,
    searched,
    space_of,
)

ALGORITHMS: tuple[AlgorithmName, ...] = get_args(AlgorithmName)
OWN = "tests.plugins.own_algorithms"
EVERY: tuple[Any, ...] = (*ALGORITHMS, f"{OWN}:HillClimbing")
"""The built-in ones, and one of a user's own."""


def half_right(workers: Counting) -> np.ndarray:
    """Ranks that say something of what is useful, but not all."""
    return 0.5 * workers.useful + np.random.default_rng(0).random(len(workers.useful))


def useful_share(workers: Counting) -> float:
    """The share of the whole cost that the useful genes have."""
    return float(workers.useful.mean())


# --- finding what was planted


@pytest.mark.parametrize("algorithm", ["nsga2", "widths", "genetic"])
@pytest.mark.parametrize("seed", range(2))
def test_the_planted_useless_genes_are_found(algorithm: AlgorithmName, seed: int) -> None:
    """Without tolerance there is one best genome: the useful genes and no other. Widths take ranks along."""
    workers = planted(seed, allowed=0)
    config = SearchConfig(algorithm=algorithm, population=24, generations=200, mutation_rate=0.05)
    ranks = half_right(workers) if algorithm == "widths" else None
    best = searched(workers, config, seed, ranks).algorithm.front[0]
    assert best.genome.tolist() == workers.useful.astype(int).tolist()
    assert best.score.macs == MACS_A_GENE * workers.useful.sum()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_at_the_useful_genes_cost_those_alone_are_kept(algorithm: AlgorithmName) -> None:
    """With just as much as the useful genes cost to spend, there is one genome without errors; 36 keep half."""
    workers = Counting(space_of(4, 4), np.array([1, 0, 1, 0, 0, 1, 1, 0], bool), allowed=100)
    config = SearchConfig(algorithm=algorithm, population=24, generations=40, mutation_rate=0.1, target_cost=0.5)
    ranks = workers.useful.astype(float) if algorithm == "ranking" else None
    best = searched(workers, config, maps=ranks).algorithm.front[0]
    assert best.genome.tolist() == workers.useful.astype(int).tolist()


@pytest.mark.parametrize("algorithm", ["widths", "genetic", "nsga2"])
def test_of_many_genes_too(algorithm: AlgorithmName) -> None:
    workers = planted(1, allowed=100)
    config = SearchConfig(
        algorithm=algorithm,
        population=24,
        generations=25 if algorithm == "widths" else 120,
        mutation_rate=0.05,
        target_cost=useful_share(workers),
    )
    ranks = half_right(workers) if algorithm == "widths" else None
    assert searched(workers, config, maps=ranks).algorithm.front[0].score.errors == 0


@pytest.mark.parametrize("sizes", [(12, 10, 8), (200, 150)])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_a_ranking_finds_the_last_genome_within_the_tolerance(scope: Scope, sizes: tuple[int, ...]) -> None:
    """The first one below it makes more errors than are allowed; six candidates a generation close in on it."""
    workers = planted(3, allowed=4, sizes=sizes)
    importance = workers.useful + 2 * np.random.default_rng(0).random(len(workers.useful))
    config = SearchConfig(algorithm="ranking", population=6, generations=4, scope=scope)
    best = searched(workers, config, maps=importance).algorithm.front[0].genome
    order = rank_maps(workers.space, importance, scope)
    errors = [
        int((workers.useful & (top_ranked(workers.space, order, count) == 0)).sum()) for count in range(len(order) + 1)
    ]
    last = min(count for count, wrong in enumerate(errors) if wrong <= 4)
    assert best.tolist() == top_ranked(workers.space, order, last).tolist()


def test_global_scope_compares_groups_by_their_importance() -> None:
    """The first of two groups of four is more important throughout. Five maps of eight stay."""
    workers = Counting(space_of(4, 4), np.ones(8, dtype=bool), allowed=100)
    importance = np.array([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    kept = {
        scope: searched(
            workers, SearchConfig(algorithm="ranking", target_cost=0.625, generations=1, scope=scope), maps=importance
        ).algorithm.front[0]
        for scope in ("local", "global")
    }
    assert kept["global"].genome.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert kept["local"].genome.tolist() == [1, 1, 1, 0, 1, 1, 0, 0]


def test_a_ranking_asks_for_every_target_however_small_the_population() -> None:
    config = SearchConfig(algorithm="ranking", population=4, generations=1, target_cost=(0.9, 0.7, 0.5, 0.4, 0.3, 0.2))
    told = searched(Counting(space_of(10), np.ones(10, dtype=bool), allowed=100), config).candidates
    assert {int(c.genome.sum()) for generation in told for c in generation} == {10, 9, 7, 5, 4, 3, 2}


def test_widths_of_a_good_ranking_are_found_fast() -> None:
    """With ranks that know the useful genes, only three widths have to be found."""
    workers = planted(2, allowed=100)
    config = SearchConfig(algorithm="widths", population=16, generations=15, target_cost=useful_share(workers))
    found = searched(workers, config, maps=workers.useful + 0.01 * np.arange(30) / 30)
    assert found.algorithm.front[0].score.errors == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_several_targets_each_have_their_best(algorithm: AlgorithmName) -> None:
    """No candidate ever told that is within a target makes fewer errors than the front's best one there."""
    workers = planted(3, allowed=100)
    config = SearchConfig(algorithm=algorithm, population=16, generations=10, target_cost=(0.8, 0.4))
    kept = searched(workers, config)
    whole = MACS_A_GENE * len(workers.useful)
    told = [candidate for generation in kept.candidates for candidate in generation]
    for target in (0.8, 0.4):
        within = [c.score.errors for c in told if c.score.macs <= target * whole + 1e-6]
        front = [c.score.errors for c in kept.algorithm.front if c.score.macs <= target * whole + 1e-6]
        assert min(front) == min(within)
        assert sum(0.85 * target * whole <= c.score.macs <= target * whole + 1e-6 for c in told) >= 16


@pytest.mark.parametrize("algorithm", ["nsga2", "widths"])
@pytest.mark.parametrize("cost", ["macs", "params", "bytes"])
def test_the_front_trades_errors_for_cost_within_the_tolerance(cost: Any, algorithm: AlgorithmName) -> None:
    """With 3 errors allowed, three useful genes may go too: 3, 2, 1 and 0 errors each have their cheapest genome."""
    workers = planted(1, allowed=3)
    config = SearchConfig(algorithm=algorithm, population=24, generations=100, mutation_rate=0.05, cost=cost)
    front = searched(workers, config, maps=half_right(workers) if algorithm == "widths" else None).algorithm.front
    useful = int(workers.useful.sum())
    found = {(candidate.score.errors, int(candidate.genome.sum())) for candidate in front}
    assert found == {(errors, useful - errors) for errors in range(4)}


@pytest.mark.parametrize("algorithm", EVERY)
def test_the_front_is_kept_over_all_generations(algorithm: AlgorithmName) -> None:
    """No candidate ever told is feasible and better than what is on the front at the end."""
    workers = planted(2, allowed=3)
    kept = searched(workers, SearchConfig(algorithm=algorithm, population=8, generations=20))
    on_front = {(c.score.errors, c.score.macs) for c in kept.algorithm.front}
    told = {(c.score.errors, c.score.macs) for generation in kept.candidates for c in generation if c.score.feasible}
    for errors, macs in told:
        assert any(e <= errors and m <= macs for e, m in on_front)
    assert on_front <= told


# --- asking and telling


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("target", [None, 0.5, (0.6, 0.3)])
def test_the_first_generation_begins_with_the_whole_network(algorithm: AlgorithmName, target: Any) -> None:
    config = SearchConfig(algorithm=algorithm, population=10, target_cost=target)
    genomes = algorithm_for(space_of(*SIZES), config).ask(10)
    assert genomes[0].tolist() == [1] * 30
    assert len(genomes) == 10
    assert sum(genome.all() for genome in genomes) == 1


def test_children_come_from_survivors_alone() -> None:
    """Without crossover and with one gene a mutation, a child differs from one of the population in a swap at most."""
    workers = planted(0, allowed=1)
    config = SearchConfig(algorithm="nsga2", population=8, generations=1, crossover_rate=0.0, mutation_rate=0.0)
    kept = searched(workers, config)
    parents = np.stack([candidate.genome for candidate in kept.candidates[0]]).astype(int)
    for child in kept.candidates[1]:
        assert np.abs(parents - child.genome).sum(1).min() <= 2


@pytest.mark.parametrize("algorithm", ["random", "genetic", "widths"])
def test_candidates_for_a_target_have_its_cost(algorithm: AlgorithmName) -> None:
    """30 genes of 30 MACs: 0.5 of them are 15 genes. Least widths are 1 a group, so that always fits."""
    workers = planted(0, allowed=100)
    config = SearchConfig(algorithm=algorithm, population=12, generations=5, target_cost=0.5)
    told = [c for generation in searched(workers, config).candidates for c in generation][1:]
    assert {int(c.genome.sum()) for c in told} == {15}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_target_below_the_least_genome_is_refused(algorithm: AlgorithmName) -> None:
    """Three groups keep 5 of 10 maps each."""
    config = SearchConfig(algorithm=algorithm, target_cost=0.4)
    with pytest.raises(ConfigError, match=r"search.target_cost must be at least 0.5 here .*, not 0.4"):
        algorithm_for(space_of(10, 10, 10, minimum=5), config)


def test_dominance_bounds_of_populations() -> None:
    """Populations of two for each target: the second best candidate within it is the bound."""
    config = SearchConfig(algorithm="genetic", population=4, target_cost=(0.8, 0.4))
    algorithm = algorithm_for(space_of(10), config)  # 300 MACs
    assert algorithm.dominance_bounds() == ()
    algorithm.tell([candidate(9, 100), candidate(2, 200), candidate(1, 240), candidate(0, 300)])
    above = np.nextafter(120.0, np.inf)  # what costs 120 is within 0.4
    assert algorithm.dominance_bounds() == ((above, 2),)  # only one is
    algorithm.tell([candidate(5, 120), candidate(7, 90), candidate(3, 230)])
    assert algorithm.dominance_bounds() == ((above, 2), (0.0, 7))


def test_populations_keep_the_least_divergence_if_asked_for() -> None:
    config = SearchConfig(algorithm="widths", population=4, target_cost=0.5)
    algorithm = algorithm_for(space_of(10), config)  # 300 MACs
    told = [candidate(e, 150, divergence=d) for e, d in ((3, 9.0), (9, 3.0), (4, 8.0), (8, 4.0), (5, 7.0))]
    algorithm.tell(told)
    assert algorithm.dominance_bounds() == ((0.0, 8.0),)  # of the four that are in
    assert [one.score.divergence for one in algorithm.front] == [3.0]


def test_dominance_bounds_of_the_front() -> None:
    config = SearchConfig(algorithm="nsga2", population=4, target_cost=0.5)
    algorithm = algorithm_for(space_of(10), config)  # 300 MACs
    algorithm.tell([candidate(9, 100), candidate(8, 150), candidate(1, 240), candidate(2, 290)])
    assert set(algorithm.dominance_bounds()) == {(0.0, 8), (240, 1)}


# --- states


@pytest.mark.parametrize("algorithm", sorted({*EVERY} - {"ranking"}))  # which draws nothing
def test_the_same_generator_gives_the_same_search(algorithm: AlgorithmName) -> None:
    config = SearchConfig(algorithm=algorithm, population=8, generations=6)
    one, two, other = (searched(planted(0, allowed=2), config, seed) for seed in (5, 5, 6))
    assert [plain(generation) for generation in one.candidates] == [plain(g) for g in two.candidates]
    assert one.states == two.states
    assert one.states != other.states


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("steady", [False, True], ids=["by generation", "steady state"])
@pytest.mark.parametrize("target", [None, (0.6, 0.3)])
@pytest.mark.parametrize("after", [0, 3])
def test_a_restored_state_goes_on_exactly(algorithm: AlgorithmName, after: int, steady: bool, target: Any) -> None:
    """Through JSON, as a snapshot; nothing is scored again that was scored before."""
    if steady and algorithm == "particle_filter":
        pytest.skip("refused: it weighs whole generations")
    config = SearchConfig(algorithm=algorithm, population=12, generations=6, steady_state=steady, target_cost=target)
    workers = planted(0, allowed=2)
    whole = searched(workers, config)
    told = [candidate for generation in whole.candidates[: after + 1] for candidate in generation]
    resumed = Kept(algorithm_for(workers.space, config, seed=99), whole.candidates[: after + 1])
    again = planted(0, allowed=2)
    loop = loop_for(resumed.algorithm, again, config)
    loop.restore(after + 1, json.loads(whole.states[after]), loop_from_json(json.loads(whole.loops[after])), told)
    run(loop, resumed)
    assert [plain(generation) for generation in resumed.candidates] == [plain(g) for g in whole.candidates]
    assert resumed.states == whole.states[after + 1 :]
    assert [c.key for c in resumed.algorithm.front] == [c.key for c in whole.algorithm.front]
    assert resumed.loops == whole.loops[after + 1 :]
    assert workers.scored == [c.key for c in told if not c.cached] + again.scored


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("steady", [False, True], ids=["by generation", "steady state"])
@pytest.mark.parametrize("generations", [0, 1, 3])
def test_a_shorter_search_is_the_beginning_of_a_longer_one(
    algorithm: AlgorithmName, generations: int, steady: bool
) -> None:
    """To the last bit of where it stands at its end, so that it can be carried on; and nothing is scored for later."""
    if steady and algorithm == "particle_filter":
        pytest.skip("refused: it weighs whole generations")
    config = SearchConfig(algorithm=algorithm, population=12, generations=6, steady_state=steady)
    workers = planted(0, allowed=2)
    whole = searched(planted(0, allowed=2), config)
    short = searched(workers, config.model_copy(update={"generations": generations}))
    assert short.loops == whole.loops[: generations + 1]
    assert short.states == whole.states[: generations + 1]
    assert not workers.waiting
    assert workers.scored == [c.key for told in whole.candidates[: generations + 1] for c in told if not c.cached]


def plain(candidates: Sequence[Candidate]) -> list[tuple[Any, ...]]:
    """Candidates without the arrays, for which == means something else."""
    return [(c.generation, c.key, c.genome.tolist(), c.score, c.cached) for c in candidates]


# --- a user's own


def test_names_are_those_of_the_config() -> None:
    assert sorted(REGISTRY.names) == sorted(ALGORITHMS)
    assert all(summary for _, summary in REGISTRY.describe())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "FailsInTheThird",
            r"^search\.algorithm: .*:FailsInTheThird: tell failed \(RuntimeError: first line\); c",
        ),
        ("Leaves", r":Leaves: ask failed \(SystemExit: 0\)"),
        ("TooFew", r":TooFew: ask returned 7 genomes, not 8"),
        ("Floats", r":Floats: ask returned a genome that is float64 \(30,\), not uint8 \(30,\)"),
        ("Longer", r":Longer: ask returned a genome that is uint8 \(31,\), not uint8 \(30,\)"),
        ("Larger", r":Larger: ask returned 7 for gene 0, which must be below 2"),
        (
            "Nothing",
            r":Nothing: ask returned a genome that the space refuses \(group 0 must keep at least 1 .*\); space",
        ),
        ("OwnComplaint", r"^search\.algorithm: .*:OwnComplaint: ask failed \(UserError: too cold\); correct it"),
        ("Lists", r":Lists: ask returned a genome that is a list, not uint8 \(30,\)"),
        ("NothingAsked", r":NothingAsked: ask failed \(TypeError"),
        ("NotWhole", r":NotWhole: ask must return the unpruned network, space\.full\(\), as the very first genome"),
        ("StateOfArrays", r":StateOfArrays: state failed \(TypeError: Object of type ndarray is not JSON"),
        ("StateOfTuples", r":StateOfTuples: state must return plain JSON data"),
        ("NoAsk", r":NoAsk: its constructor failed \(TypeError: Can't instantiate abstract class NoAsk"),
        ("number", r":number must make an ep\.Algorithm, not a int"),
        ("NOT_CALLABLE", r":NOT_CALLABLE must be a subclass of ep\.Algorithm, not a str"),
    ],
)
def test_a_mistake_names_the_algorithm_and_the_call(name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        searched(planted(0, allowed=2), SearchConfig(algorithm=f"{OWN}:{name}", population=8, generations=6))
    assert "\n" not in str(caught.value)


# --- the particle filter's parts


def test_weights_by_hand() -> None:
    """Rates 0.1 and 0.3 have a standard deviation of 0.1: the second one's weight is exp(-2) of the first one's."""
    one, other = particle_weights([0.1, 0.3])
    assert other / one == pytest.approx(np.exp(-2))
    assert one + other == pytest.approx(1)
    assert particle_weights([0.2, 0.2]).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("seed", range(5))
def test_particles_are_drawn_as_often_as_they_weigh(seed: int) -> None:
    """Systematic: within one of count * weight, whatever the draw."""
    drawn = systematic_resample(np.array([0.5, 0.3, 0.2, 0.0]), 10, np.random.default_rng(seed))
    assert np.bincount(drawn, minlength=4).tolist() == [5, 3, 2, 0]


def test_the_ratio_rises_while_the_best_keeps_up() -> None:
    """No gene is useful, so the ratio rises every time: each generation costs 0.85 of the one before at most."""
    workers = Counting(space_of(40, 40), np.zeros(80, dtype=bool))
    kept = searched(workers, SearchConfig(algorithm="particle_filter", population=6, generations=5))
    most = [max(c.score.macs for c in generation[1:]) for generation in kept.candidates]
    assert most == [MACS_A_GENE * int(80 * 0.85**number + 1e-9) for number in range(1, 7)]
    everything = Counting(space_of(40, 40), np.ones(80, dtype=bool))
    kept = searched(everything, SearchConfig(algorithm="particle_filter", population=6, generations=5))
    assert {c.score.macs for generation in kept.candidates for c in generation[1:]} == {68 * MACS_A_GENE}


def test_particles_get_to_the_last_target_within_six_generations_and_one_a_target_between() -> None:
    """A tenth of 200 genes, by the sixth root of that; half of them on the way."""
    workers = Counting(space_of(100, 100), np.zeros(200, dtype=bool))
    config = SearchConfig(algorithm="particle_filter", population=6, generations=8, target_cost=(0.5, 0.1))
    most = [max(c.score.macs for c in told[1:]) / MACS_A_GENE for told in searched(workers, config).candidates]
    assert most == [136, 100, 68, 46, 31, 21, 20, 20, 20]  # 200 * 0.1 ** (1 / 6) = 136.3; 100 * that: 68.1, 46.4, ...


def test_particles_have_as_many_generations_to_spare_at_each_target() -> None:
    """Of twelve, six to fall and one for the target between: five to spare, two for each target and one more."""
    workers = Counting(space_of(100, 100), np.zeros(200, dtype=bool))
    config = SearchConfig(algorithm="particle_filter", population=6, generations=12, target_cost=(0.5, 0.1))
    most = [max(c.score.macs for c in told[1:]) / MACS_A_GENE for told in searched(workers, config).candidates]
    assert most == [136, 100, 100, 100, 68, 46, 31, 21, 20, 20, 20, 20, 20]
