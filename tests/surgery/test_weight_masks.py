"""Masks on single weights: what they mean, what they cost, how they are stored."""

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evoprune.discovery.discover import search_space
from evoprune.record import files
from evoprune.space.cost import cost
from evoprune.space.search_space import SearchSpace
from evoprune.surgery.weight_masks import pack_sparse, sparse_cost, stored_bytes, unpack_sparse, with_masked_weights

some = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def network() -> tuple[nn.Module, SearchSpace]:
    """Weights 4 x 9 and 3 x 36; of 6 x 6 images 16 and 4 positions; a bias of 3."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 3)).eval()
    return model, search_space(model, torch.zeros(1, 1, 6, 6))


def first(count: int, *shape: int) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[:count] = True
    return mask


def test_the_cost_by_hand() -> None:
    """6 of 36 and 20 of 108 weights stay. Bits: 5 + 6 * 4 and 14 + 20 * 4 bytes (gaps: 5 * 6, 5 * 20); bias 12."""
    _, space = network()
    masks = {"0.weight": first(6, 4, 1, 3, 3), "2.weight": first(20, 3, 4, 3, 3)}
    left = sparse_cost(space, masks)
    assert (left.macs, left.params, left.bytes) == (6 * 16 + 20 * 4, 6 + 20 + 3, 29 + 94 + 12)
    whole = cost(space, space.full())
    assert sparse_cost(space, {}) == whole
    everything = {"0.weight": first(36, 4, 1, 3, 3)}
    assert sparse_cost(space, everything) == whole  # stored as it was: nothing is gained by a list of all


def test_few_weights_far_apart_are_stored_by_their_gaps_with_fillers() -> None:
    """Weights 0, 300 and 1200 of 4096: gaps 0; 255 (a filler) and 43; three fillers and 131. 7 values, 5 bytes each."""
    mask = torch.zeros(4096, dtype=torch.bool)
    mask[[0, 300, 1200]] = True
    weight = torch.randn(4096) * mask
    packed = pack_sparse({"w": weight}, {"w": mask})
    assert packed["w.gaps"].tolist() == [0, 255, 43, 255, 255, 255, 131]
    assert (packed["w.values"] != 0).tolist() == [True, False, True, False, False, False, True]
    assert stored_bytes(mask, 4) == 35
    assert torch.equal(unpack_sparse(packed, {"w": (4096,)})["w"], weight)


@some
@given(size=st.integers(1, 3000), share=st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5, 1.0]), seed=st.integers(0, 2**32))
def test_stored_and_read_again_to_the_bit(size: int, share: float, seed: int) -> None:
    """And as many bytes as were counted; never more than the dense weight."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(size, 1, generator=generator) < share
    tensors = {"w": torch.randn(size, 1, generator=generator) * mask, "w.bias": torch.randn(3, generator=generator)}
    packed = pack_sparse(tensors, {"w": mask})
    found = unpack_sparse(packed, {"w": (size, 1)})
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    stored = sum(tensor.nbytes for name, tensor in packed.items() if name != "w.bias")
    assert stored == stored_bytes(mask, 4) <= 4 * size


def test_the_file_has_the_bytes_that_are_counted(tmp_path: Path) -> None:
    model, space = network()
    masks = {layer.weight: torch.rand(layer.shape) < 0.2 for layer in space.layers}
    pruned = with_masked_weights(model, masks)
    assert all(not pruned.get_parameter(name)[~mask].any() for name, mask in masks.items())
    assert all(model.get_parameter(name)[~mask].all() for name, mask in masks.items())
    files.write_tensors(tmp_path / "sparse.safetensors", pack_sparse(pruned.state_dict(), masks), {})
    read, _ = files.read_tensors(tmp_path / "sparse.safetensors")
    assert sum(tensor.nbytes for tensor in read.values()) == sparse_cost(space, masks).bytes
    model.load_state_dict(unpack_sparse(read, {layer.weight: layer.shape for layer in space.layers}))
    images = torch.randn(2, 1, 6, 6)
    assert torch.equal(model(images), pruned(images))
    assert (pruned(images) != 0).any()
