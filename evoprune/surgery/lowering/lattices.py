"""Patterns of taps as few lattices. A lattice is a regular grid of taps: a small dense kernel, possibly dilated.

A pattern is an int; bit t is set if tap t (row-major) stays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

MOST_TAPS = 169
"""Kernels of more taps are covered by single taps and bounding lattices only, because there are too many others."""

Sizes = tuple[int, ...]


@dataclass(frozen=True, order=True)
class LatticeShape:
    """Number of taps along each dimension of a kernel, and their distances; the step of a single tap is 1."""

    counts: Sizes
    steps: Sizes

    @property
    def area(self) -> int:
        """Number of taps."""
        return math.prod(self.counts)


@dataclass(frozen=True, order=True)
class Lattice:
    """A lattice at a place in a kernel. start: its first tap along each dimension."""

    shape: LatticeShape
    start: Sizes

    def taps(self, kernel_size: Sizes) -> tuple[int, ...]:
        """Its taps in row-major order, as row-major positions in the kernel."""
        shape = self.shape
        lines = [
            range(first, first + count * step, step)
            for first, count, step in zip(self.start, shape.counts, shape.steps, strict=True)
        ]
        return tuple(_position(tap, kernel_size) for tap in product(*lines))


@dataclass(frozen=True)
class Piece:
    """A lattice that covers some taps of a pattern. bits: the covered taps; the lattice's other taps are zeros."""

    lattice: Lattice
    bits: int


def pattern_of(taps: Sequence[int]) -> int:
    """The pattern of these taps."""
    return sum(1 << tap for tap in set(taps))


def single(dims: int) -> LatticeShape:
    """One tap."""
    return LatticeShape((1,) * dims, (1,) * dims)


def bounding(pattern: int, kernel_size: Sizes) -> Lattice:
    """The smallest lattice that contains a non-empty pattern."""
    taps = _taps(pattern, kernel_size)
    starts, counts, steps = [], [], []
    for line in zip(*taps, strict=True):
        first, step = min(line), math.gcd(*(place - min(line) for place in line))
        starts.append(first)
        counts.append((max(line) - first) // step + 1 if step else 1)
        steps.append(step or 1)
    return Lattice(LatticeShape(tuple(counts), tuple(steps)), tuple(starts))


@lru_cache(maxsize=4096)
def natural_shapes(pattern: int, kernel_size: Sizes) -> tuple[LatticeShape, ...]:
    """Shapes that suit a pattern: of its bounding lattice, and of lattices that partition it, largest first."""
    shapes = {bounding(pattern, kernel_size).shape: None}
    left = pattern
    if math.prod(kernel_size) <= MOST_TAPS:
        for lattice, bits in _all_lattices(kernel_size):
            if bits & ~left == 0:
                shapes[lattice.shape] = None
                left &= ~bits
    return tuple(shapes)


@lru_cache(maxsize=65536)
def cover(pattern: int, shapes: tuple[LatticeShape, ...], kernel_size: Sizes) -> tuple[Piece, ...] | None:
    """Lattices of these shapes that cover each tap of a pattern once; None if there are none.

    Greedy: each step takes the lattice with the largest share of new taps; among equals, the one with most new taps.
    """
    pieces = []
    while pattern:
        best, best_merit = None, (0.0, 0)
        for shape in shapes:
            for lattice, bits in _places(shape, kernel_size):
                new = (bits & pattern).bit_count()
                merit = (new / shape.area, new)
                if merit > best_merit:
                    best, best_merit = Piece(lattice, bits & pattern), merit
        if best is None:
            return None
        pieces.append(best)
        pattern &= ~best.bits
    return tuple(pieces)


@lru_cache(maxsize=4096)
def _places(shape: LatticeShape, kernel_size: Sizes) -> tuple[tuple[Lattice, int], ...]:
    """All places of a shape in a kernel, with their patterns."""
    room = [
        range(size - (count - 1) * step)
        for size, count, step in zip(kernel_size, shape.counts, shape.steps, strict=True)
    ]
    lattices = (Lattice(shape, start) for start in product(*room))
    return tuple((lattice, pattern_of(lattice.taps(kernel_size))) for lattice in lattices)


@lru_cache(maxsize=64)
def _all_lattices(kernel_size: Sizes) -> tuple[tuple[Lattice, int], ...]:
    """All lattices in a kernel with their patterns, largest first, dense before dilated."""
    lines = [
        [(1, 1), *((count, step) for count in range(2, size + 1) for step in range(1, (size - 1) // (count - 1) + 1))]
        for size in kernel_size
    ]
    shapes = (LatticeShape(*map(tuple, zip(*line, strict=True))) for line in product(*lines))
    return tuple(
        place
        for shape in sorted(shapes, key=lambda shape: (-shape.area, shape.steps))
        for place in _places(shape, kernel_size)
    )


def _taps(pattern: int, kernel_size: Sizes) -> list[Sizes]:
    return [
        tap for tap in product(*(range(size) for size in kernel_size)) if pattern >> _position(tap, kernel_size) & 1
    ]


def _position(tap: Sequence[int], kernel_size: Sizes) -> int:
    position = 0
    for place, size in zip(tap, kernel_size, strict=True):
        position = position * size + place
    return position
