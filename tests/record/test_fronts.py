"""The front and its hypervolume, by hand and against the definitions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoprune.record.fronts import Corner, diversity, front, hypervolume, hypervolumes

CORNER = Corner("macs", 10, 0.5)


def frame(points: Sequence[tuple[int, float | None]], feasible: Sequence[bool | None] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "key": [str(place) for place in range(len(points))],
            "macs": pd.Series([cost for cost, _ in points], dtype="int64"),
            "mcr": pd.Series([mcr for _, mcr in points], dtype="Float64"),
            "feasible": pd.array(list(feasible or [True] * len(points)), dtype="boolean"),
            "generation": range(len(points)),
        }
    )


def test_the_front_by_hand() -> None:
    points = frame([(8, 0.1), (4, 0.3), (4, 0.3), (6, 0.3), (2, 0.4), (1, 0.2), (1, None)], [True] * 5 + [False, None])
    assert front(points, "macs")["key"].tolist() == ["4", "1", "0"]


def test_hypervolume_by_hand() -> None:
    # from 2 to 4 MACs 0.1 below the corner, from 4 to 8 0.2, from 8 to 10 0.4; the box is 10 x 0.5
    points = frame([(8, 0.1), (4, 0.3), (2, 0.4)])
    assert hypervolume(points, CORNER) == pytest.approx((2 * 0.1 + 4 * 0.2 + 2 * 0.4) / 5)


def test_the_hypervolume_without_feasible_candidates_is_zero() -> None:
    assert hypervolume(frame([(1, 0.1)], [False]), CORNER) == 0
    assert hypervolume(frame([(10, 0.5)]), CORNER) == 0


def test_generations_add_up() -> None:
    points = frame([(8, 0.1), (4, 0.3), (9, 0.4)])
    assert hypervolumes(points, CORNER) == pytest.approx(
        [2 * 0.4 / 5, (4 * 0.2 + 2 * 0.4) / 5, (4 * 0.2 + 2 * 0.4) / 5]
    )


POINTS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4).map(lambda tenth: tenth / 10)), min_size=1, max_size=8)


@given(points=POINTS)
def test_no_candidate_beats_the_front_and_its_share_is_what_a_grid_counts(points: list[tuple[int, float]]) -> None:
    found = front(frame(points), "macs")
    best = list(zip(found["macs"], found["mcr"], strict=True))
    assert all(any(cost <= c and mcr <= m for cost, mcr in best) for c, m in points)
    assert not any(a != b and a[0] <= b[0] and a[1] <= b[1] for a in best for b in best)
    cells = [(cost + 0.5, (tenth + 0.5) / 10) for cost in range(10) for tenth in range(5)]
    behind = np.mean([any(cost <= x and mcr <= y for cost, mcr in points) for x, y in cells])
    assert hypervolume(frame(points), CORNER) == pytest.approx(behind)


def genomes(rows: list[list[int]]) -> pd.Series:
    return pd.Series([bytes(row) for row in rows])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([[0, 1]], 0.0), ([[0, 1], [0, 1]], 0.0), ([[0, 1], [1, 1]], 0.5), ([[0], [1], [7]], 1.0), ([[], []], 0.0)],
)
def test_diversity_by_hand(rows: list[list[int]], expected: float) -> None:
    assert diversity(genomes(rows)) == pytest.approx(expected)


@given(
    rows=st.integers(2, 6).flatmap(lambda n: st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=n))
)
def test_diversity_is_the_mean_over_pairs(rows: list[list[int]]) -> None:
    pairs = [np.mean(np.array(a) != np.array(b)) for i, a in enumerate(rows) for b in rows[:i]]
    assert diversity(genomes(rows)) == pytest.approx(np.mean(pairs))
