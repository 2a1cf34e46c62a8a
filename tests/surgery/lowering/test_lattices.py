"""Patterns of taps as lattices: what makes up a pattern is found, and every tap is carried exactly once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.surgery.lowering.lattices import (
    Lattice,
    LatticeShape,
    bounding,
    cover,
    natural_shapes,
    pattern_of,
    single,
)

SINGLE = LatticeShape((1, 1), (1, 1))
COLUMN = LatticeShape((3, 1), (1, 1))
DIAGONAL = pattern_of([0, 4, 8])


@pytest.mark.parametrize(
    ("taps", "pieces"),
    [
        ([1, 4, 7], [(COLUMN, (0, 1))]),
        ([0, 2, 4, 6, 8], [(LatticeShape((2, 2), (2, 2)), (0, 0)), (SINGLE, (1, 1))]),
        ([1, 3, 5, 7], [(LatticeShape((1, 2), (1, 2)), (1, 0)), (LatticeShape((2, 1), (2, 1)), (0, 1))]),
        ([0, 4, 8], [(SINGLE, (0, 0)), (SINGLE, (1, 1)), (SINGLE, (2, 2))]),
        ([1, 2, 4, 5, 7, 8], [(LatticeShape((3, 2), (1, 1)), (0, 1))]),
    ],
)
def test_the_masks_of_a_3x3_kernel(taps: list[int], pieces: list[tuple[LatticeShape, tuple[int, int]]]) -> None:
    pattern = pattern_of(taps)
    found = cover(pattern, natural_shapes(pattern, (3, 3)), (3, 3))
    assert found is not None
    assert sorted((piece.lattice.shape, piece.lattice.start) for piece in found) == sorted(pieces)


def test_the_bounding_lattice_knows_the_step() -> None:
    corners = pattern_of([0, 4, 20, 24])  # of 5x5
    assert bounding(corners, (5, 5)) == Lattice(LatticeShape((2, 2), (4, 4)), (0, 0))
    assert bounding(DIAGONAL, (3, 3)).shape == LatticeShape((3, 3), (1, 1))
    assert bounding(pattern_of([5]), (2, 3)) == Lattice(SINGLE, (1, 2))


def test_columns_cannot_cover_a_row_of_two_kernels_high() -> None:
    assert cover(pattern_of([0, 1]), (COLUMN,), (2, 3)) is None


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_every_tap_is_carried_once(data: st.DataObject) -> None:
    size = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3), label="kernel"))
    taps = 1
    for side in size:
        taps *= side
    pattern = data.draw(st.integers(1, 2**taps - 1), label="pattern")
    for shapes in (natural_shapes(pattern, size), (single(len(size)),), (bounding(pattern, size).shape,)):
        pieces = cover(pattern, shapes, size)
        assert pieces is not None
        assert sum(piece.bits for piece in pieces) == pattern  # disjoint, and nothing else
        for piece in pieces:
            assert piece.bits & ~pattern_of(piece.lattice.taps(size)) == 0
