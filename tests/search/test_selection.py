"""Which candidate is better: domination under the tolerance, the front, selection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoprune.scoring.candidate import Candidate
from evoprune.search.objective import Objective
from evoprune.search.selection import Individual, dominates, feasible_front, select_population
from tests.search.made_up import candidate

MACS = Objective("macs")

# (one, other, whether one dominates the other, whether the other dominates the one)
PAIRS = {
    "fewer errors, cheaper": (candidate(1, 100), candidate(2, 200), True, False),
    "fewer errors, same cost": (candidate(1, 200), candidate(2, 200), True, False),
    "same errors, cheaper": (candidate(2, 100), candidate(2, 200), True, False),
    "one better in each": (candidate(1, 200), candidate(2, 100), False, False),
    "the same": (candidate(1, 100, key="a"), candidate(1, 100, key="b"), False, False),
    "feasible before cheap": (candidate(9, 900), candidate(10, 1, feasible=False), True, False),
    "scored on all before scored on some": (candidate(9, 900), candidate(1, 1, None, images_seen=10), True, False),
    # 20 errors came within 50 images, then within 80: the latter makes fewer
    "nearer to feasible": (
        candidate(20, 900, False, images_seen=80),
        candidate(20, 100, False, images_seen=50),
        True,
        False,
    ),
    "perhaps feasible before infeasible": (
        candidate(9, 900, None, images_seen=10),
        candidate(20, 1, False, images_seen=99),
        True,
        False,
    ),
    "as far from feasible": (candidate(20, 100, False), candidate(20, 200, False), False, False),
}


@pytest.mark.parametrize(("one", "other", "better", "worse"), PAIRS.values(), ids=PAIRS.keys())
def test_domination_by_hand(one: Candidate, other: Candidate, better: bool, worse: bool) -> None:
    assert (dominates(one, other, MACS), dominates(other, one, MACS)) == (better, worse)


def test_costs_are_distinguished_by_name() -> None:
    one = candidate(1, 100)
    assert [Objective(name).cost_of(one) for name in ("macs", "params", "bytes")] == [100, 900, 1900]
    assert Individual(one, Objective("params")).fitness.values == (1, 900)


def test_by_divergence_it_alone_counts_among_the_feasible() -> None:
    """Otherwise by errors; who was stopped since a known one diverges less is compared by how soon."""
    apart = Objective("macs", fitness="divergence")
    near, far = candidate(5, 100, divergence=2.5), candidate(3, 100, divergence=4.5)
    assert (dominates(near, far, apart), dominates(far, near, apart)) == (True, False)
    assert (dominates(near, far, MACS), dominates(far, near, MACS)) == (False, True)
    assert Individual(near, apart).fitness.values == (2.5, 100)
    assert feasible_front([far, near], apart) == select_population([far, near], 1, apart) == [near]
    late = candidate(9, 100, None, images_seen=90, divergence=9.0)
    soon = candidate(2, 100, None, images_seen=20, divergence=9.0)
    assert dominates(late, soon, apart)
    assert not dominates(soon, late, apart)
    assert apart.dominance_bounds([near]) == ((100, 2.5),)


def test_the_front_by_hand() -> None:
    candidates = [
        candidate(5, 500),
        candidate(3, 700),
        candidate(4, 700),  # beaten by the one before
        candidate(9, 100, feasible=False),
        candidate(0, 100, None, images_seen=10),
        candidate(6, 500),  # beaten by the first
        candidate(6, 400),
        candidate(6, 400, key="another"),  # as good as the one before
    ]
    assert [one.key for one in feasible_front(candidates, MACS)] == ["6-400", "another", "5-500", "3-700"]
    assert feasible_front(candidates[3:5], MACS) == []
    assert feasible_front([], MACS) == []


def test_the_front_keeps_the_first_of_equal_phenotypes() -> None:
    first, again = candidate(5, 500, key="a"), candidate(5, 500, key="a", generation=1)
    assert [one.generation for one in feasible_front([first, again], MACS)] == [0]


CANDIDATES = st.lists(
    st.builds(
        candidate,
        errors=st.integers(0, 12),
        macs=st.integers(0, 12),
        feasible=st.sampled_from([True, True, False, None]),
        key=st.text("abcdefgh", min_size=2, max_size=2),
        images_seen=st.integers(13, 100),
    ),
    max_size=30,
    unique_by=lambda one: one.key,
)


@given(candidates=CANDIDATES)
def test_the_front_has_the_feasible_candidates_that_none_dominates(candidates: list[Candidate]) -> None:
    front = feasible_front(candidates, MACS)
    feasible = [one for one in candidates if one.score.feasible]
    expected = {one.key for one in feasible if not any(dominates(other, one, MACS) for other in feasible)}
    assert {one.key for one in front} == expected
    assert len(front) == len(expected)
    assert [one.score.macs for one in front] == sorted(one.score.macs for one in front)


@given(candidates=CANDIDATES)
def test_the_front_of_fronts_is_the_front_of_all(candidates: list[Candidate]) -> None:
    """So that it may be kept generation by generation."""
    half = len(candidates) // 2
    kept = feasible_front([*feasible_front(candidates[:half], MACS), *candidates[half:]], MACS)
    assert [one.key for one in kept] == [one.key for one in feasible_front(candidates, MACS)]


@given(candidates=CANDIDATES, share=st.floats(0, 1))
def test_selection_takes_front_by_front(candidates: list[Candidate], share: float) -> None:
    count = int(share * len(candidates))
    selected = select_population(candidates, count, MACS)
    keys = {one.key for one in selected}
    assert len(selected) == len(keys) == count
    for one in selected:  # whoever beats it was taken first
        assert {other.key for other in candidates if dominates(other, one, MACS)} <= keys
