"""Which kernels each gene of kernels and strides speaks for, by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.config.choices import StrideSharing
from evoprune.discovery.discover import search_space
from evoprune.errors import SearchSpaceError
from evoprune.space.kernel_genes import KernelGenes, StrideGenes
from evoprune.space.masks import stride_table
from evoprune.space.search_space import SearchSpace


def chain(*convolutions: nn.Module) -> nn.Sequential:
    layers = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())]
    return nn.Sequential(*layers[:-1]).eval()


def space_of(model: nn.Module, inputs: int = 1, **options: object) -> SearchSpace:
    chosen = {"feature_maps": True, "kernels": True, "strides": True} | options
    return search_space(model, torch.randn(1, inputs, 12, 12), **chosen)  # type: ignore[arg-type]


def test_a_kernel_gene_is_one_kernel() -> None:
    genes = KernelGenes("w", 10, (2, 3))
    assert genes.of_kernel.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert genes.genes == slice(10, 16)


@pytest.mark.parametrize(
    ("block", "rows"),
    [(2, [0, 0, 1, 1, 2]), (3, [0, 0, 0, 1, 1]), (5, [0, 0, 0, 0, 0])],
)
def test_a_block_of_output_maps_shares_a_gene(block: int, rows: list[int]) -> None:
    """5 output maps: the last block has what is left. 2 input maps: block b and input i have gene 2 b + i."""
    genes = KernelGenes("w", 0, (5, 2), block)
    assert genes.of_kernel.tolist() == [[2 * row, 2 * row + 1] for row in rows]
    assert genes.size == 2 * (rows[-1] + 1)


@pytest.mark.parametrize(
    ("sharing", "groups", "of_kernel"),
    [
        ("input_map", 1, [[0, 1], [0, 1], [0, 1], [0, 1]]),
        ("layer", 1, [[0, 0], [0, 0], [0, 0], [0, 0]]),
        ("kernel", 1, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("input_map", 2, [[0, 1], [0, 1], [2, 3], [2, 3]]),  # 4 input maps, two to a group
        ("layer", 2, [[0, 0], [0, 0], [0, 0], [0, 0]]),
        ("kernel", 2, [[0, 1], [2, 3], [4, 5], [6, 7]]),
    ],
)
def test_kernels_that_share_a_stride_mask(sharing: StrideSharing, groups: int, of_kernel: list[list[int]]) -> None:
    genes = StrideGenes("w", 0, (4, 2), (3, 3), stride_table((3, 3)), sharing, groups)
    assert genes.of_kernel.tolist() == of_kernel
    assert genes.size == max(max(row) for row in of_kernel) + 1


@pytest.mark.parametrize(("multiplier", "of_kernel"), [(1, [[0], [1], [2]]), (2, [[0], [0], [1], [1], [2], [2]])])
def test_a_depthwise_kernels_input_map_is_its_own_row(multiplier: int, of_kernel: list[list[int]]) -> None:
    genes = StrideGenes("w", 0, (3 * multiplier, 1), (3, 3), stride_table((3, 3)), "input_map", 3)
    assert genes.of_kernel.tolist() == of_kernel


def test_a_table_of_taps() -> None:
    genes = StrideGenes("w", 0, (2, 2), (1, 3), stride_table((1, 3), [(0, 2), (1, 2)]))
    assert genes.tap_table.astype(int).tolist() == [[1, 1, 1], [1, 0, 1], [0, 1, 0]]


def test_genes_of_a_chain() -> None:
    """Maps of the first two, then kernels of what reads more than one map, then strides of what has more than a tap."""
    space = space_of(chain(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, (1, 7))))
    assert [(genes.weight, genes.start, genes.size) for genes in space.kernels] == [
        ("2.weight", 10, 24),
        ("4.weight", 34, 12),
    ]
    assert [(genes.weight, genes.start, genes.size) for genes in space.strides] == [
        ("0.weight", 46, 1),
        ("4.weight", 47, 6),
    ]
    assert space.genes == 53
    assert space.cardinality[46] == 29
    assert space.cardinality[47:].tolist() == [len(stride_table((1, 7)))] * 6


def test_grouped_and_depthwise_convolutions() -> None:
    """A depthwise convolution has no kernel genes, for a map's only kernel is the map; its strides are a row each."""
    space = space_of(chain(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 3, groups=2)))
    assert [(genes.weight, genes.shape, genes.size) for genes in space.kernels] == [("4.weight", (6, 2), 12)]
    depthwise, grouped = space.strides
    assert (depthwise.shape, depthwise.groups, depthwise.size) == ((4, 1), 4, 4)
    assert (grouped.shape, grouped.groups, grouped.size) == ((6, 2), 2, 4)
    assert grouped.of_kernel.tolist() == [[0, 1]] * 3 + [[2, 3]] * 3


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution(groups: int) -> None:
    """Its weight is (inputs, outputs a group): kernels are counted outputs first all the same."""
    space = space_of(chain(nn.Conv2d(1, 4, 1), nn.ConvTranspose2d(4, 6, 2, groups=groups), nn.Conv2d(6, 2, 1)))
    kernels = next(genes for genes in space.kernels if genes.weight == "2.weight")
    [strides] = space.strides
    assert kernels.shape == strides.shape == (6 // groups, 4)
    assert strides.of_kernel.tolist() == [[0, 1, 2, 3]] * (6 // groups)
    model = chain_of_ones(groups)
    genome = space.full()
    genome[strides.start + 1] = 1  # stride 2 from 0: taps 0 and 2 of the 2x2 kernels that leave map 1
    genome[kernels.start + kernels.of_kernel[2, 3]] = 0
    weight = ep.mask(model, space, genome).get_parameter("2.weight").detach()
    expected = torch.ones_like(model.get_parameter("2.weight"))
    expected[1, :, :, 1] = 0
    expected[3, 2] = 0
    assert torch.equal(weight, expected)


def chain_of_ones(groups: int) -> nn.Module:
    model = chain(nn.Conv2d(1, 4, 1), nn.ConvTranspose2d(4, 6, 2, groups=groups), nn.Conv2d(6, 2, 1))
    nn.init.ones_(model.get_parameter("2.weight"))
    return model


def test_layers_kept_whole_have_no_genes() -> None:
    model = chain(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 3))
    space = space_of(model, 2, keep_first_conv=True, keep=("4",))
    assert [genes.weight for genes in space.kernels] == ["2.weight"]
    assert [genes.weight for genes in space.strides] == ["2.weight"]


def test_each_kind_alone() -> None:
    model = chain(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 3))
    kinds = {"feature_maps": 4, "kernels": 16, "strides": 6}
    for kind, genes in kinds.items():
        assert space_of(model, 2, **{other: other == kind for other in kinds}).genes == genes


def test_a_block_larger_than_a_layer_is_refused() -> None:
    model = chain(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 3))
    with pytest.raises(
        SearchSpaceError, match=r"space.kernel_block must be at most 2, the output maps of 2, not 3; lower"
    ):
        space_of(model, 2, kernel_block=3)
    assert space_of(model, 2, kernel_block=3, keep=("2",)).kernels[0].size == 4


def test_the_plan_goes_through_json() -> None:
    import json

    model = chain(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, (1, 3)))
    space = space_of(model, 2, kernel_block=2, stride_sharing="kernel", strides_allowed=((0, 3), (1, 3)))
    again = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert (again.kernels, again.strides, again.fingerprint) == (space.kernels, space.strides, space.fingerprint)
    genome = space.random(np.random.default_rng(0))
    assert again.key(genome) == space.key(genome)
