"""Taps, nonzero lists and tables of stride masks by hand; masks as values; a genome's masks."""

import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.errors import SearchSpaceError
from evoprune.space.masks import DENSE, FeatureMapMask, KernelMask, LayerStrides, StrideMask, stride_table


@pytest.mark.parametrize(
    ("kernel_size", "start", "stride", "taps"),
    [
        ((3, 3), 0, 1, (0, 1, 2, 3, 4, 5, 6, 7, 8)),
        ((3, 3), 0, 2, (0, 2, 4, 6, 8)),
        ((3, 3), 1, 2, (1, 3, 5, 7)),
        ((3, 3), 1, 3, (1, 4, 7)),
        ((3, 3), 0, 4, (0, 4, 8)),
        ((3, 3), 3, 4, (3, 7)),
        ((3, 3), 8, 9, (8,)),
        ((5, 5), 2, 5, (2, 7, 12, 17, 22)),
        ((5, 5), 0, 6, (0, 6, 12, 18, 24)),
        ((5, 5), 1, 12, (1, 13)),
        ((1, 7), 0, 3, (0, 3, 6)),
        ((1, 7), 2, 4, (2, 6)),
        ((1, 7), 6, 7, (6,)),
        ((1, 1), 0, 1, (0,)),
        ((2, 2), 5, 6, ()),
    ],
)
def test_taps_by_hand(kernel_size: tuple[int, int], start: int, stride: int, taps: tuple[int, ...]) -> None:
    assert StrideMask(start, stride).taps(kernel_size) == taps


@pytest.mark.parametrize(
    ("kernel_size", "mask", "first", "last"),
    [
        ((3, 3), StrideMask(1, 3), [1, 4, 7], [46, 49, 52]),
        ((5, 5), StrideMask(0, 6), [0, 6, 12, 18, 24], [125, 131, 137, 143, 149]),
        ((1, 7), StrideMask(2, 4), [2, 6], [37, 41]),
    ],
)
def test_nonzero_lists_by_hand(
    kernel_size: tuple[int, int], mask: StrideMask, first: list[int], last: list[int]
) -> None:
    """Weights that count up from 0: a tap's weight is its place; 3 outputs, 2 inputs."""
    taps = kernel_size[0] * kernel_size[1]
    weight = torch.arange(6.0 * taps).reshape(3, 2, *kernel_size)
    nonzero = mask.nonzero_list(weight)
    assert nonzero.shape == (3, 2, len(first))
    assert nonzero[0, 0].tolist() == first
    assert nonzero[2, 1].tolist() == last


def test_the_table_of_3x3_by_hand() -> None:
    """16 of the 45 pairs keep the taps of an earlier one: {4} from stride 5, {3} and {5} from 6, {2}, {6} from 7 ..."""
    table = stride_table((3, 3))
    by_stride = [[mask.start for mask in table if mask.stride == stride] for stride in range(1, 10)]
    of_six = [0, 1, 2, 3, 5]
    assert by_stride == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], of_six, [0, 1, 2, 6], [0, 1, 7], [0, 8]]
    assert len(table) == len({mask.taps((3, 3)) for mask in table}) == 29
    assert table[0] == DENSE
    assert list(table) == sorted(table, key=lambda mask: (mask.stride, mask.start))


def test_other_tables() -> None:
    assert stride_table((1, 1)) == (DENSE,)
    assert [mask.taps((1, 3)) for mask in stride_table((1, 3))] == [(0, 1, 2), (0, 2), (1,), (0,), (2,)]
    assert stride_table((7, 1)) == stride_table((1, 7))
    assert len(stride_table((11, 11))) == 255  # what a gene of one byte can name


def test_allowed_pairs_with_the_dense_mask_first() -> None:
    assert stride_table((3, 3), [(2, 3), (0, 3), (1, 3)]) == (
        DENSE,
        StrideMask(0, 3),
        StrideMask(1, 3),
        StrideMask(2, 3),
    )
    assert stride_table((3, 3), []) == (DENSE,)
    assert stride_table((3, 3), [(0, 1), (4, 5), (4, 9)]) == (DENSE, StrideMask(4, 5))  # (4, 9) is the same tap


@pytest.mark.parametrize(("start", "stride"), [(2, 2), (-1, 2), (0, 0), (5, 3)])
def test_a_start_that_is_not_below_its_stride_is_refused(start: int, stride: int) -> None:
    with pytest.raises(SearchSpaceError, match=f"below its stride, not start {start} with stride {stride}"):
        StrideMask(start, stride)


def test_a_stride_larger_than_the_kernel_is_refused() -> None:
    with pytest.raises(SearchSpaceError, match=r"stride 8 is larger than a kernel of 1x7 = 7 taps; take 7 at most"):
        stride_table((1, 7), [(0, 7), (0, 8)])


VALUES = [
    (FeatureMapMask("conv", 4, (0, 2)), FeatureMapMask("conv", 4, (0, 3))),
    (KernelMask("conv", 2, 2, ((0, 0), (1, 1))), KernelMask("conv", 2, 2, ((0, 0),))),
    (StrideMask(0, 3), StrideMask(1, 3)),
    (LayerStrides("conv", "layer", (StrideMask(0, 3),)), LayerStrides("conv", "layer", (DENSE,))),
]


@pytest.mark.parametrize(("one", "other"), VALUES)
def test_masks_are_values(one: object, other: object) -> None:
    again = eval(repr(one))  # the printed form says all there is
    assert again == one
    assert hash(again) == hash(one)
    assert one != other
    assert len({one, again, other}) == 2


def test_stride_masks_have_an_order() -> None:
    assert sorted([StrideMask(1, 3), StrideMask(0, 3), DENSE]) == [DENSE, StrideMask(0, 3), StrideMask(1, 3)]


def test_the_masks_of_a_genome_by_hand() -> None:
    """Two maps of 3x3 over one input, then 2 outputs; the last layer's maps are the output and stay."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)).eval()
    space = ep.search_space(model, torch.randn(1, 1, 7, 7), kernels=True, strides=True)
    # maps of "0": 0..2; kernels of "2" (of "0" a map's only kernel is the map): 3..8; strides: "0" 9, "2" 10..12
    assert space.genes == 13
    assert space.cardinality.tolist() == [2] * 9 + [29] * 4
    assert space.masks(space.full()) == ()
    genome = np.array([1, 0, 1, 1, 1, 0, 1, 1, 1, 3, 0, 5, 1], np.uint8)
    assert space.masks(genome) == (
        FeatureMapMask("0", 3, (0, 2)),
        LayerStrides("0", "input_map", (StrideMask(0, 3),)),
        KernelMask("2", 2, 3, ((0, 0), (1, 0), (1, 2))),
        LayerStrides("2", "input_map", (DENSE, DENSE, StrideMask(0, 2))),
    )
    weight = ep.mask(model, space, genome).get_parameter("2.weight").detach()
    original = model.get_parameter("2.weight").detach()
    assert torch.equal(weight[1, 2].flatten()[[0, 2, 4, 6, 8]], StrideMask(0, 2).nonzero_list(original)[1, 2])
    assert not weight[1, 2].flatten()[[1, 3, 5, 7]].any()
    assert not weight[0, 2].any()
    assert not weight[:, 1].any()
    assert torch.equal(weight[:, 0], original[:, 0])
