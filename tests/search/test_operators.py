"""Variation keeps genomes valid, and varies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.search.operators import GeneOperators, MutationRates
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from tests.search.made_up import preferences, space_of

SPACES = st.builds(
    lambda sizes, minimum, round_to: space_of(*sizes, minimum=minimum, round_to=round_to),
    st.lists(st.integers(6, 20), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(1, 5),
)


def check_valid(space: SearchSpace, genome: Genome) -> None:
    assert space.check(genome).genome.dtype == np.uint8
    for group, width in zip(space.groups, space.widths(genome), strict=True):
        assert width >= min(group.minimum, group.size)
        assert width % group.round_to == 0 or width == group.size


def operators(space: SearchSpace, ranks: np.ndarray, rate: float = 0.02) -> GeneOperators:
    return GeneOperators(space, preferences(space, ranks), MutationRates(rate, 0.02, 0.05))


def ranks_of(space: SearchSpace, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([rng.permutation(np.linspace(0, 1, group.size)) for group in space.groups])


@settings(deadline=None)
@given(space=SPACES, seed=st.integers(0, 2**32), size=st.integers(1, 60))
def test_starts(space: SearchSpace, seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    ranks = ranks_of(space, rng)
    population = operators(space, ranks).initial_genomes(size, rng)
    assert len(population) == size
    for genome in population:
        check_valid(space, genome)


def test_starts_are_ranked_and_random_genomes_of_all_widths() -> None:
    """The ranked ones of the first round keep exactly the best maps of every group; the others do not."""
    space = space_of(40, 40)
    ranks = np.concatenate([np.linspace(0, 1, 40)] * 2)
    population = operators(space, ranks).initial_genomes(16, np.random.default_rng(0))
    ranked, random = population[::2], population[1::2]
    for genome in ranked:
        assert all((np.diff(genome[group.genes].astype(int)) >= 0).all() for group in space.groups)
    assert sum((np.diff(genome[:40].astype(int)) < 0).any() for genome in random) == len(random)
    kept = [genome.mean() for genome in ranked]
    assert max(kept) > 0.75
    assert min(kept) < 0.4


@settings(deadline=None)
@given(space=SPACES, seed=st.integers(0, 2**32), rate=st.floats(0, 1))
def test_children_are_valid(space: SearchSpace, seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    ranks = ranks_of(space, rng)
    one, other = (space.random(rng, keep) for keep in (0.3, 0.8))
    before = one.copy(), other.copy()
    breed = operators(space, ranks, rate)
    child = breed.crossover(one, other, rng)
    check_valid(space, child)
    for group in space.groups:
        assert child[group.genes].tolist() in (one[group.genes].tolist(), other[group.genes].tolist())
    check_valid(space, breed.mutate(child, rng))
    assert (one == before[0]).all()
    assert (other == before[1]).all()


@settings(deadline=None)
@given(sizes=st.lists(st.integers(4, 20), min_size=1, max_size=4), seed=st.integers(0, 2**32), rate=st.floats(0, 1))
def test_a_mutant_differs_if_both_directions_have_room(sizes: list[int], seed: int, rate: float) -> None:
    """Half of every group stays: whether it is to grow, to shrink or to swap, at least one gene changes."""
    space, rng = space_of(*sizes), np.random.default_rng(seed)
    ranks = ranks_of(space, rng)
    genome = space.random(rng, keep=0.5)
    assert (operators(space, ranks, rate).mutate(genome, rng) != genome).any()


@pytest.mark.parametrize("round_to", [1, 4, 8])
def test_mutants_get_narrower_and_wider(round_to: int) -> None:
    """With widths in multiples, too: a single map fewer would come back at once."""
    space, rng = space_of(64, round_to=round_to), np.random.default_rng(0)
    genome = space.random(rng, keep=0.5)
    widths = [int(operators(space, np.zeros(64)).mutate(genome, rng).sum()) for _ in range(200)]
    assert sum(width < 32 for width in widths) > 60
    assert sum(width > 32 for width in widths) > 30
    assert sum(width == 32 for width in widths) > 30


def test_about_the_mutation_rate_changes() -> None:
    """At a rate of 0.1, 20 of 200 genes change in the mean; a swap changes two for one."""
    space, rng = space_of(100, 100), np.random.default_rng(0)
    genome = space.random(rng, keep=0.5)
    changed = [int((operators(space, np.zeros(200), 0.1).mutate(genome, rng) != genome).sum()) for _ in range(300)]
    assert 20 < np.mean(changed) < 30


def test_unimportant_maps_go_and_important_ones_come_back() -> None:
    space, rng = space_of(50), np.random.default_rng(0)
    ranks = np.linspace(0, 1, 50)
    genome = space.random(rng, keep=0.5)
    gone, back = [], []
    for _ in range(300):
        change = operators(space, ranks, 0.05).mutate(genome, rng).astype(int) - genome
        gone += ranks[change < 0].tolist()
        back += ranks[change > 0].tolist()
    assert np.mean(gone) < 0.35
    assert np.mean(back) > 0.65


@pytest.mark.parametrize("seed", range(3))
def test_the_same_generator_gives_the_same_genomes(seed: int) -> None:
    space = space_of(10, 6, round_to=2)
    ranks = np.linspace(0, 1, 16)

    def bred() -> list[list[int]]:
        rng = np.random.default_rng(seed)
        breed = operators(space, ranks, 0.1)
        population = breed.initial_genomes(9, rng)
        child = breed.crossover(population[3], population[4], rng)
        return [genome.tolist() for genome in (*population, child, breed.mutate(child, rng))]

    assert bred() == bred()
