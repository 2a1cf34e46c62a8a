"""Masked weights are stored as what stays: bit for bit, as small as the cost says, and never mistaken."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import evoprune as ep
from evoprune.data.input_format import InputFormat
from evoprune.discovery.discover import search_space
from evoprune.errors import SearchSpaceError
from evoprune.record import files
from evoprune.record.survivor_files import SavedSurvivor, read_survivor, write_survivor
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.surgery.packing import pack, unpack
from tests.space.masked import KINDS, MASKED, SHARINGS, masked_space, network_of, whole_genomes

few = settings(max_examples=6, deadline=None, derandomize=True, database=None)

HEADER_BYTES = 4096
"""The names, types and places of the 14 to 30 tensors, as JSON: some 100 bytes each, measured 1.4 to 2.4 KB in all."""


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    def raw(tensor: Tensor) -> bytes:
        return tensor.contiguous().numpy().tobytes()

    return one.keys() == other.keys() and all(
        (tensor.dtype, tensor.shape, raw(tensor)) == (other[name].dtype, other[name].shape, raw(other[name]))
        for name, tensor in one.items()
    )


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", MASKED)
def test_a_file_is_read_back_to_the_bit_and_as_small_as_the_cost(name: str, sharing: str, tmp_path: Path) -> None:
    space = masked_space(name, sharing=sharing, block=1 + (sharing == "layer"))
    model, path = network_of(name), tmp_path / "a.safetensors"

    @few
    @given(whole_genomes(space))
    def check(genome: Genome) -> None:
        tensors = ep.compact(model, space, genome).state_dict()
        assert same_bits(unpack(pack(tensors, space, space.check(genome)), space, space.check(genome)), tensors)
        write_survivor(path, SavedSurvivor(tensors, InputFormat((3, 8, 8), 5)), space, genome)
        again = read_survivor(path, space, genome)
        assert same_bits(dict(again.tensors), tensors)
        assert again.inputs == InputFormat((3, 8, 8), 5)
        price = ep.cost(space, genome)
        assert price.bytes <= path.stat().st_size <= 1.02 * price.bytes + HEADER_BYTES

    check()


@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_every_combination_of_masks_is_read_back(kinds: tuple[int, int, int]) -> None:
    space = masked_space("plain", kinds, "kernel")
    genome = space.random(np.random.default_rng(3), 0.4)
    tensors = ep.compact(network_of("plain"), space, genome).state_dict()
    packed = pack(tensors, space, space.check(genome))
    assert same_bits(unpack(packed, space, space.check(genome)), tensors)
    assert sum(tensor.numel() * tensor.element_size() for tensor in packed.values()) == ep.cost(space, genome).bytes


def small() -> tuple[SearchSpace, Genome, dict[str, Tensor]]:
    """One convolution of 2 maps over 2 that loses kernel (0, 1); what leaves map 0 keeps its middle column."""
    model = nn.Sequential(nn.Conv2d(2, 2, 3, bias=False)).eval()
    space = search_space(model, torch.randn(1, 2, 5, 5), feature_maps=False, kernels=True, strides=True)
    genome = np.array([1, 0, 1, 1, 4, 0], np.uint8)
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.arange(36.0).reshape(2, 2, 3, 3))
    return space, genome, ep.compact(model, space, genome).state_dict()


def test_the_stored_form_by_hand() -> None:
    space, genome, tensors = small()
    packed = pack(tensors, space, space.check(genome))
    assert packed["0.weight.values"].tolist() == [1, 4, 7, 19, 22, 25, *range(27, 36)]
    assert packed["0.weight.kernels"].tolist() == [0, 2, 3]
    assert packed["0.weight.kernels"].dtype == torch.uint16
    assert packed["0.weight.strides"].tolist() == [[1, 3], [0, 1]]
    assert packed["0.weight.strides"].dtype == torch.uint8
    assert packed.keys() == {"0.weight.values", "0.weight.kernels", "0.weight.strides"}
    assert ep.cost(space, genome).bytes == 15 * 4 + 3 * 2 + 2 * 2


def test_where_lists_would_take_more_than_zeros_the_zeros_are_stored() -> None:
    """1x1 kernels of 4 bytes, with 2 bytes of place each: it pays once more than a third of them is gone."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False)).eval()
    space = search_space(model, torch.randn(1, 3, 5, 5), feature_maps=False, kernels=True)
    sizes = []
    for gone in range(1, 6):
        genome = space.full()
        genome[:gone] = 0
        packed = pack(ep.compact(model, space, genome).state_dict(), space, space.check(genome))
        assert ("0.weight" in packed) == (gone <= 3)
        sizes.append(ep.cost(space, genome).bytes)
    assert sizes == [36, 36, 36, 30, 24]


DAMAGE = {
    "a kernel elsewhere": {"0.weight.kernels": torch.tensor([0, 1, 3], dtype=torch.uint16)},
    "a kernel too few": {"0.weight.kernels": torch.tensor([0, 2], dtype=torch.uint16)},
    "no kernels": {"0.weight.kernels": None},
    "another mask": {"0.weight.strides": torch.tensor([[2, 3], [0, 1]], dtype=torch.uint8)},
    "no masks": {"0.weight.strides": None},
    "a weight too few": {"0.weight.values": torch.ones(14)},
    "a weight too many": {"0.weight.values": torch.ones(16)},
    "no weights": {"0.weight.values": None},
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_lists_are_refused(change: dict[str, Tensor | None], tmp_path: Path) -> None:
    space, genome, tensors = small()
    packed = pack(tensors, space, space.check(genome)) | change
    left = {name: tensor for name, tensor in packed.items() if tensor is not None}
    with pytest.raises(SearchSpaceError, match=r"kernels and strides of 0\.weight are not those of the genome"):
        unpack(left, space, space.check(genome))
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, left, {"image_shape": "[2, 5, 5]", "classes": "2"})
    with pytest.raises(files.DamagedFileError, match=r"a\.safetensors.*0\.weight") as caught:
        read_survivor(path, space, genome)
    assert "\n" not in str(caught.value)


def test_another_genomes_lists_are_refused() -> None:
    space, genome, tensors = small()
    other = genome.copy()
    other[[0, 1]] = [0, 1]  # as many kernels and weights
    packed = pack(tensors, space, space.check(genome))
    with pytest.raises(SearchSpaceError, match="not those of the genome"):
        unpack(packed, space, space.check(other))
