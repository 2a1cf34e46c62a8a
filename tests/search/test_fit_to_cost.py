"""Genomes brought to a cost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.search.fit_to_cost import fit_to_cost, smallest_genome
from evoprune.space.cost import cost
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from tests.search.made_up import MACS_A_GENE, space_of


def macs(space: SearchSpace, genome: Genome) -> float:
    return float(cost(space, genome).macs)


def brought(space: SearchSpace, genome: Genome, genes: float, importance: np.ndarray) -> Genome:
    """To the cost of so many genes."""
    return fit_to_cost(space, genome, genes * MACS_A_GENE, lambda one: macs(space, one), importance)


def test_the_least_important_go_the_same_share_of_every_group() -> None:
    space = space_of(8, 4)
    genome = brought(space, space.full(), 6, np.arange(12.0))
    assert genome.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1]


def test_widths_keep_their_proportions() -> None:
    """6 of 8 and 2 of 4 at half of that are 3 and 1, whatever the ranks between groups are."""
    space = space_of(8, 4)
    genome = np.array([1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0], np.uint8)
    importance = np.array([*range(8), *range(100, 104)], float)
    assert space.widths(brought(space, genome, 4, importance)).tolist() == [3, 1]
    assert space.widths(brought(space, genome, 4, -importance)).tolist() == [3, 1]


def test_the_most_important_come_back() -> None:
    space = space_of(6)
    genome = np.array([1, 0, 0, 0, 0, 0], np.uint8)
    assert brought(space, genome, 3, np.array([0, 5, 1, 4, 2, 3.0])).tolist() == [1, 1, 0, 1, 0, 0]


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(3, 12), min_size=1, max_size=4),
    minimum=st.integers(1, 3),
    round_to=st.integers(1, 3),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_no_more_than_the_target_and_nothing_else_fits(
    sizes: list[int], minimum: int, round_to: int, share: float, seed: int
) -> None:
    """At most the target wherever the least genome is; one step of widths more in every group would be too much."""
    space, rng = space_of(*sizes, minimum=minimum, round_to=round_to), np.random.default_rng(seed)
    start = space.random(rng, keep=rng.uniform(0.1, 1))
    target = max(share * macs(space, space.full()), macs(space, smallest_genome(space)))
    result = fit_to_cost(space, start, target, lambda one: macs(space, one), rng.random(space.genes))
    space.check(result)
    assert macs(space, result) <= target
    room = sum(min(2 * round_to + minimum, group.size) for group in space.groups) * MACS_A_GENE
    assert macs(space, result) > target - room or result.all()


@pytest.mark.parametrize("minimum", [1, 3])
def test_the_least_genome_has_the_least_widths(minimum: int) -> None:
    space = space_of(5, 4, minimum=minimum)
    assert space.widths(smallest_genome(space)).tolist() == [minimum, minimum]
