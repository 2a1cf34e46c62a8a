"""Which candidates of a front are retrained: by hand, and that they are different ones."""

from hypothesis import given
from hypothesis import strategies as st

from evoprune.scoring.candidate import Candidate
from evoprune.search.objective import Objective
from evoprune.search.survivor_choice import choose_survivors
from tests.search.made_up import candidate

MACS = Objective("macs")

# Scaled to 0..1: (0, 1), (0.1, 0.6), (0.2, 0.2), (0.6, 0.1), (1, 0). The third lies farthest below the diagonal.
FRONT = [candidate(errors, macs) for errors, macs in ((20, 100), (12, 200), (4, 300), (2, 700), (0, 1100))]


def places(chosen: list[Candidate], front: list[Candidate] = FRONT) -> list[int]:
    return [front.index(one) for one in chosen]


def test_the_cheapest_the_knee_the_most_accurate_then_the_gaps() -> None:
    assert [places(choose_survivors(FRONT, count, MACS)) for count in range(1, 7)] == [
        [0],
        [0, 2],
        [0, 2, 4],
        [0, 1, 2, 4],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4],
    ]


def test_a_front_of_nothing_or_one() -> None:
    assert choose_survivors([], 3, MACS) == []
    assert choose_survivors(FRONT[:1], 3, MACS) == FRONT[:1]
    assert choose_survivors(FRONT[:2], 1, MACS) == FRONT[:1]


def test_the_cost_is_the_searchs() -> None:
    """By parameters (1000 - MACs) the same candidates lie the other way round: cheap and bad is now dear and bad."""
    front = [candidate(errors, macs) for errors, macs in ((10, 900), (9, 800), (1, 700), (0, 100))]
    assert places(choose_survivors(front, 2, Objective("params")), front) == [0, 2]


def test_they_are_compared_as_the_search_compares_them() -> None:
    """At the target 250 the one of fewest errors diverges more than the other."""
    front = [candidate(3, 100, divergence=9.0), candidate(5, 200, divergence=2.0), candidate(0, 300, divergence=0.0)]
    assert places(choose_survivors(front, 1, Objective("macs", (250.0,))), front) == [0]
    assert places(choose_survivors(front, 1, Objective("macs", (250.0,), "divergence")), front) == [0, 1]


def test_of_ties_one_is_chosen_while_there_are_others() -> None:
    twins = [candidate(9, 100, key=key) for key in "abc"]
    front = [*twins, candidate(8, 200), candidate(1, 300), candidate(0, 400)]
    assert places(choose_survivors(front, 3, MACS), front) == [0, 4, 5]
    assert places(choose_survivors(front, 4, MACS), front) == [0, 3, 4, 5]
    assert len(choose_survivors(front, 5, MACS)) == 5


@given(
    points=st.sets(st.tuples(st.integers(0, 50), st.integers(0, 1000)), min_size=1, max_size=20),
    twins=st.integers(1, 3),
    count=st.integers(1, 25),
)
def test_survivors_are_different_and_as_many_as_there_are(points: set[tuple[int, int]], twins: int, count: int) -> None:
    ordered = sorted(points, key=lambda point: (point[1], point[0]))
    front = [candidate(errors, macs, key=f"{errors}-{macs}-{i}") for errors, macs in ordered for i in range(twins)]
    chosen = choose_survivors(front, count, MACS)
    assert len({survivor.key for survivor in chosen}) == len(chosen) == min(count, len(front))
    assert len({(survivor.score.errors, survivor.score.macs) for survivor in chosen}) == min(count, len(points))
    assert chosen[0] is front[0]
    assert [survivor.score.macs for survivor in chosen] == sorted(survivor.score.macs for survivor in chosen)
    if count >= 3:
        assert chosen[-1].score == front[-1].score
