"""The Pareto front of points, by hand and against the definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evoprune.search.pareto import non_dominated


def test_by_hand() -> None:
    """(2, 3) is dominated by (2, 2); the two points (1, 4) are equal; (5, 2) is dominated by (2, 2)."""
    points = np.array([(1, 4), (2, 3), (2, 2), (1, 4), (5, 2), (4, 1)], dtype=float)
    assert non_dominated(points).tolist() == [True, False, True, True, False, True]


def test_no_points() -> None:
    assert non_dominated(np.empty((0, 2))).tolist() == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_as_the_definition_says(points: list[tuple[int, int]]) -> None:
    expected = [
        not any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in points) for one in points
    ]
    assert non_dominated(np.array(points, dtype=float).reshape(-1, 2)).tolist() == expected
