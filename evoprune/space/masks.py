"""The three granularities of pruning as values: masks over feature maps, over kernels, and inside kernels.

References:
    Anwar, Hwang and Sung 2017, sections 3 and 4 (feature maps, kernels, intra-kernel strided sparsity).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from evoprune.errors import SearchSpaceError

MOST_VALUES = 255
"""Largest number of masks in a table: a gene is one byte."""


@dataclass(frozen=True)
class FeatureMapMask:
    """The output maps of a layer that stay. kept: positions among `maps`, ascending."""

    layer: str
    maps: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class KernelMask:
    """The kernels of a layer that stay. kept: pairs (output map, input map), ascending."""

    layer: str
    outputs: int
    inputs: int
    kept: tuple[tuple[int, int], ...]


@dataclass(frozen=True, order=True)
class StrideMask:
    """A mask that keeps the weights at `start, start + stride, ...` over a kernel's taps in row-major order.

    Raises:
        SearchSpaceError: If start is not in 0..stride-1.
    """

    start: int
    stride: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stride:
            raise SearchSpaceError(
                f"space.strides_allowed: a stride mask's start must be at least 0 and below its stride, "
                f"not start {self.start} with stride {self.stride}"
            )

    def taps(self, kernel_size: Sequence[int]) -> tuple[int, ...]:
        """The taps that stay, row-major; none if the start lies behind the last tap."""
        return tuple(range(self.start, math.prod(kernel_size), self.stride))

    def nonzero_list(self, weight: Tensor) -> Tensor:
        """The weights that stay. weight: (outputs, inputs, *kernel). Returns (outputs, inputs, taps)."""
        return weight.flatten(2)[..., list(self.taps(weight.shape[2:]))]


DENSE = StrideMask(0, 1)


@dataclass(frozen=True)
class LayerStrides:
    """The stride masks of a layer's kernels. masks: one per set of kernels that share (see `StrideGenes.sharing`)."""

    layer: str
    sharing: str
    masks: tuple[StrideMask, ...]


def stride_table(
    kernel_size: Sequence[int], allowed: Sequence[tuple[int, int]] | None = None
) -> tuple[StrideMask, ...]:
    """The masks that a stride gene chooses from; the first is dense.

    Args:
        kernel_size: Size of the kernel along each dimension.
        allowed: Pairs (start, stride) to choose from besides the dense mask; None: all pairs with start < stride.

    Returns:
        Masks that keep different sets of taps, by ascending stride; at most 255, because a gene is one byte.

    Raises:
        SearchSpaceError: If a start is not below its stride, or a stride is larger than the kernel.
    """
    taps = math.prod(kernel_size)
    if allowed is None:
        masks = [StrideMask(start, stride) for stride in range(1, taps + 1) for start in range(stride)]
    else:
        masks = [DENSE, *(StrideMask(start, stride) for start, stride in allowed)]
    for mask in masks:
        if mask.stride > taps:
            raise SearchSpaceError(
                f"space.strides_allowed: stride {mask.stride} is larger than a kernel of "
                f"{'x'.join(map(str, kernel_size))} = {taps} taps; take {taps} at most"
            )
    distinct = {mask.taps(kernel_size): mask for mask in reversed(masks)}
    return tuple(sorted(distinct.values(), key=lambda mask: (mask.stride, mask.start)))[:MOST_VALUES]
