"""Genomes straight from a ranking, by hand and as properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.config.choices import Scope
from evoprune.errors import ConfigError
from evoprune.search.ranking import rank_maps, ranked_genome, ranks_within_groups, top_ranked
from evoprune.space.cost import cost
from evoprune.space.plan import Genome
from tests.search.made_up import MACS_A_GENE, space_of

some = settings(max_examples=60, deadline=None, derandomize=True, database=None)
IMPORTANCE = np.array([4.0, 1.0, 3.0, 2.0, 0.4, 0.1, 0.3, 0.2])  # two groups of four, the second's values a tenth


def test_ranks_are_within_groups() -> None:
    importance = np.array([0.3, 0.1, 0.2, 0.4, 5.0, 7.0])
    assert ranks_within_groups(space_of(4, 2), importance).tolist() == [0.625, 0.125, 0.375, 0.875, 0.25, 0.75]


def test_global_scope_ranks_all_groups_together() -> None:
    """Five of eight: all of the first group, and the best of the other."""
    space = space_of(4, 4)
    genome = ranked_genome(space, IMPORTANCE, 5 * MACS_A_GENE, "global", lambda g: cost(space, g).macs)
    assert genome.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


def test_local_scope_takes_the_same_share_of_each_group() -> None:
    """Six of eight: three of each, the best; and between, one group is a map ahead."""
    space = space_of(4, 4)
    six, five = (
        ranked_genome(space, IMPORTANCE, n * MACS_A_GENE, "local", lambda g: cost(space, g).macs) for n in (6, 5)
    )
    assert six.tolist() == [1, 0, 1, 1, 1, 0, 1, 1]
    assert sorted(space.widths(five).tolist()) == [2, 3]


def test_least_widths_and_multiples_hold() -> None:
    """A group keeps 2 at least, and multiples of 2: its best ones; what that costs is within the target."""
    space = space_of(4, 4, minimum=2, round_to=2)
    genome = ranked_genome(space, IMPORTANCE, 7 * MACS_A_GENE, "global", lambda g: cost(space, g).macs)
    assert genome.tolist() == [1, 1, 1, 1, 1, 0, 1, 0]
    with pytest.raises(ConfigError, match="cannot reach a cost of 90: at the minimum widths it is 120; raise"):
        ranked_genome(space, IMPORTANCE, 3 * MACS_A_GENE, "global", lambda g: cost(space, g).macs)


def test_the_whole_network_if_the_target_allows_it() -> None:
    space = space_of(3, 2)
    genome = ranked_genome(space, np.zeros(5), 1e9, "local", lambda g: cost(space, g).macs)
    assert (genome == space.full()).all()


@some
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    round_to=st.integers(1, 3),
    scope=st.sampled_from(["local", "global"]),
)
def test_no_genome_of_the_ranking_is_nearer(seed: int, sizes: list[int], round_to: int, scope: Scope) -> None:
    """Against every length of the ranking, one after the other."""
    rng, space = np.random.default_rng(seed), space_of(*sizes, round_to=round_to)
    importance, target = rng.random(space.maps), rng.uniform(0.2, 1.2) * space.maps * MACS_A_GENE

    def cost_of(genome: Genome) -> float:
        return cost(space, genome).macs

    order = rank_maps(space, importance, scope)
    costs = [cost_of(top_ranked(space, order, count)) for count in range(space.maps + 1)]
    within = [value for value in costs if value <= target]
    if not within:
        with pytest.raises(ConfigError):
            ranked_genome(space, importance, target, scope, cost_of)
        return
    genome = ranked_genome(space, importance, target, scope, cost_of)
    assert cost_of(genome) == max(within)
    for group in space.groups:  # what stays in a group is its best
        stays = genome[group.genes] != 0
        if not stays.all():
            assert importance[group.genes][stays].min() >= importance[group.genes][~stays].max()
