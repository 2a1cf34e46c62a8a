"""A convolution in lowered form, as modules: blocks of outputs, each the sum of a few dense convolutions.

All forms of a convolution are `LoweredConv` modules; `forms` decides on the blocks and terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.surgery.lowering.lattices import LatticeShape, Sizes

_CONVOLVE = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}


@dataclass(frozen=True)
class Geometry:
    """The geometry of a convolution, one number per dimension. before, after: padding at the two ends."""

    kernel_size: Sizes
    stride: Sizes
    dilation: Sizes
    before: Sizes
    after: Sizes
    mode: str = "zeros"

    @classmethod
    def of(cls, conv: nn.modules.conv._ConvNd) -> "Geometry":
        """The geometry of a convolution module."""
        ends = tuple(conv._reversed_padding_repeated_twice)[::-1]  # after, before of the first dimension, then the next
        return cls(conv.kernel_size, conv.stride, conv.dilation, ends[1::2], ends[0::2], conv.padding_mode)

    @property
    def dims(self) -> int:
        """Number of dimensions."""
        return len(self.kernel_size)

    @property
    def pad(self) -> list[int]:
        """The padding in the order of F.pad: last dimension first, before and after."""
        return [side for pair in zip(self.before[::-1], self.after[::-1], strict=True) for side in pair]


@dataclass(frozen=True)
class Source:
    """Input maps from start to stop of which a term reads the pixels under a lattice that starts at tap `offset`."""

    start: int
    stop: int
    offset: Sizes


@dataclass(frozen=True, eq=False)
class Term:
    """One dense convolution over some maps.

    Attributes:
        shape: Of its kernel.
        sources: The maps that it reads, in order.
        taps: int64 (rows, columns, *shape.counts), positions of its weights in the layer's flat weight; -1 for a zero.
        groups: Groups of this convolution.
    """

    shape: LatticeShape
    sources: tuple[Source, ...]
    taps: np.ndarray
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Block:
    """Output maps that are sums of the same terms. rows: the output maps. order: the layer's input maps, in order."""

    rows: tuple[int, ...]
    order: tuple[int, ...]
    terms: tuple[Term, ...]


class TermConv(nn.Module):
    """One dense convolution, over maps as they are or with each source shifted so that all lattices coincide."""

    def __init__(self, geometry: Geometry, term: Term, weight: Tensor, bias: Tensor | None):
        super().__init__()
        flat = torch.cat([weight.detach().reshape(-1), weight.new_zeros(1)])
        self.weight = nn.Parameter(flat[torch.from_numpy(term.taps)])
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self._sources = _merged(term.sources)
        self.shifts = len({source.offset for source in self._sources}) > 1
        self._groups = term.groups
        self._dims = geometry.dims
        self._dilation = tuple(a * b for a, b in zip(geometry.dilation, term.shape.steps, strict=True))
        self._extent = tuple((n - 1) * d for n, d in zip(term.shape.counts, self._dilation, strict=True))
        self._full = tuple((n - 1) * d for n, d in zip(geometry.kernel_size, geometry.dilation, strict=True))
        # A shifted single tap applies the stride in the slice, so that fewer pixels are copied.
        steps = zip(term.shape.counts, geometry.stride, strict=True)
        self._slice_steps = tuple(stride if self.shifts and count == 1 else 1 for count, stride in steps)
        self._stride = tuple(s // step for s, step in zip(geometry.stride, self._slice_steps, strict=True))
        self._slices = [self._slice(source.offset, geometry) for source in self._sources]
        self._padding, self._pad = self._own_padding(self._sources[0].offset, geometry)

    def forward(self, values: Tensor, padded: Tensor) -> Tensor:
        """The term. values: (batch, maps, *pixels). padded: values with the layer's padding, for shifted terms."""
        if self.shifts:
            parts = [
                padded[(slice(None), slice(source.start, source.stop), *slices)]
                for source, slices in zip(self._sources, self._slices, strict=True)
            ]
            return self._convolve(torch.cat(parts, 1), (0,) * self._dims)
        parts = [values[:, source.start : source.stop] for source in self._sources]
        values = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        if self._pad is not None:
            values = F.pad(values, self._pad)
        return self._convolve(values, self._padding)

    def _convolve(self, values: Tensor, padding: Sizes) -> Tensor:
        return _CONVOLVE[self._dims](
            values, self.weight, self.bias, self._stride, padding, self._dilation, self._groups
        )

    def _slice(self, offset: Sizes, geometry: Geometry) -> tuple[slice, ...]:
        slices = []
        for dim, first in enumerate(offset):
            start = first * geometry.dilation[dim]
            left_over = self._full[dim] - self._extent[dim] - start
            slices.append(slice(start, -left_over if left_over else None, self._slice_steps[dim]))
        return tuple(slices)

    def _own_padding(self, offset: Sizes, geometry: Geometry) -> tuple[Sizes, list[int] | None]:
        """Padding inside the convolution, and padding (cropping, if negative) before it for F.pad; None without."""
        ends = []
        for dim, first in enumerate(offset):
            start = first * geometry.dilation[dim]
            ends.append((geometry.before[dim] - start,
                         geometry.after[dim] - (self._full[dim] - self._extent[dim] - start)))  # fmt: skip
        if all(before == after >= 0 for before, after in ends):
            return tuple(before for before, _ in ends), None
        return (0,) * self._dims, [side for pair in reversed(ends) for side in pair]


class BlockConv(nn.Module):
    """Some output maps: the sum of dense convolutions over the maps that they read."""

    select: Tensor | None

    def __init__(self, geometry: Geometry, block: Block, weight: Tensor, bias: Tensor | None, inputs: int | None):
        """Builds the block. inputs: number of input maps; None if they come selected and ordered already."""
        super().__init__()
        natural = inputs is None or block.order == tuple(range(inputs))
        self.register_buffer("select", None if natural else torch.tensor(block.order), persistent=False)
        own_bias = None if bias is None else bias[list(block.rows)]
        self.terms = nn.ModuleList(
            TermConv(geometry, term, weight, None if number else own_bias) for number, term in enumerate(block.terms)
        )
        shifts = any(isinstance(term, TermConv) and term.shifts for term in self.terms)
        self._pad = geometry.pad if shifts and any(geometry.pad) else None

    def forward(self, values: Tensor) -> Tensor:
        """values: (batch, inputs, *sizes). Returns the block's output maps."""
        if self.select is not None:
            values = values.index_select(1, self.select)
        padded = values if self._pad is None else F.pad(values, self._pad)
        total: Tensor | None = None
        for term in self.terms:
            part = term(values, padded)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total


class LoweredConv(nn.Module):
    """A convolution as concatenated blocks of output maps.

    Args:
        geometry: Of the convolution.
        blocks: Together, all output maps.
        weight: Of the convolution, (outputs, inputs per group, *kernel).
        bias: Of the convolution.
        inputs: Number of input maps; None if they come in the order of the only block already.
    """

    restore: Tensor | None

    def __init__(
        self, geometry: Geometry, blocks: Sequence[Block], weight: Tensor, bias: Tensor | None, inputs: int | None
    ):
        super().__init__()
        self._pad: list[int] | None = None
        if geometry.mode != "zeros":
            self._pad = geometry.pad
            nothing = (0,) * geometry.dims
            self._mode = geometry.mode
            geometry = Geometry(geometry.kernel_size, geometry.stride, geometry.dilation, nothing, nothing)
        self.blocks = nn.ModuleList(BlockConv(geometry, block, weight, bias, inputs) for block in blocks)
        rows = np.concatenate([block.rows for block in blocks])
        natural = np.array_equal(rows, np.arange(len(rows)))
        self.register_buffer("restore", None if natural else torch.from_numpy(np.argsort(rows)), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """values: (batch, inputs, *sizes). Returns (batch, outputs, *sizes after the convolution)."""
        if self._pad is not None:
            values = F.pad(values, self._pad, mode=self._mode)
        parts = [block(values) for block in self.blocks]
        result = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return result if self.restore is None else result.index_select(1, self.restore)


def _merged(sources: Sequence[Source]) -> list[Source]:
    """Sources, with adjacent ones of equal offset joined."""
    merged: list[Source] = []
    for source in sources:
        if merged and merged[-1].stop == source.start and merged[-1].offset == source.offset:
            merged[-1] = Source(merged[-1].start, source.stop, source.offset)
        else:
            merged.append(source)
    return merged
