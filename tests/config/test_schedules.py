"""Schedules by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoprune.config.schedules import Schedule, kept_fractions


@pytest.mark.parametrize(
    ("schedule", "fractions"),
    [
        ("one_shot", [0.0625] * 4),
        ("linear", [1 - 0.234375, 1 - 0.46875, 1 - 0.703125, 0.0625]),
        ("exponential", [0.5, 0.25, 0.125, 0.0625]),
        # sparsity 0.9375 (1 - (1 - t / 4)^3): of 64 parts of it 37, 56, 63 and all
        ("cubic", [1 - 0.9375 * 37 / 64, 1 - 0.9375 * 56 / 64, 1 - 0.9375 * 63 / 64, 0.0625]),
    ],
)
def test_by_hand(schedule: Schedule, fractions: list[float]) -> None:
    assert kept_fractions(schedule, 4, 0.0625) == pytest.approx(fractions)


@given(
    st.sampled_from(["one_shot", "linear", "exponential", "cubic"]),
    st.integers(1, 40),
    st.floats(0.001, 1),
)
def test_shares_never_rise_and_reach_the_end(schedule: Schedule, steps: int, final: float) -> None:
    kept = kept_fractions(schedule, steps, final)
    assert len(kept) == steps
    assert kept[-1] == final
    assert all(later <= before + 1e-12 for before, later in zip((1.0, *kept), kept, strict=False))
