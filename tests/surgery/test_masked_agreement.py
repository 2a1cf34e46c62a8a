"""Maps, kernels and taps in all combinations: mask and compact agree, and the cost is what is left."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import evoprune as ep
from evoprune.discovery.proof import relative_difference
from evoprune.space.search_space import SearchSpace
from tests.space.masked import KINDS, MASKED, SHARINGS, masked_space, network_of, whole_genomes

few = settings(max_examples=5, deadline=None, derandomize=True, database=None)


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def counted_macs(model: nn.Module, images: Tensor) -> int:
    """Weights that are not zero times the places where each is used, by hooks. images: one of them."""
    total = 0

    def count(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        transposed = isinstance(module, nn.ConvTranspose2d)
        places = (args[0] if transposed else output)[0, 0].numel() if not isinstance(module, nn.Linear) else 1
        total += int(module.weight.count_nonzero()) * places

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    outputs(model, images)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("kinds", KINDS, ids=str)
@pytest.mark.parametrize("name", MASKED)
def test_mask_and_compact_agree_and_cost_what_is_left(name: str, kinds: tuple[int, int, int]) -> None:
    sharing = SHARINGS[(list(MASKED).index(name) + KINDS.index(kinds)) % 3]
    space: SearchSpace = masked_space(name, kinds, sharing, block=1 + kinds[0])
    model, exact = network_of(name), network_of(name).double()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))

    @few
    @given(whole_genomes(space))
    def check(genome: np.ndarray) -> None:
        small = ep.compact(exact, space, genome)
        masked = outputs(ep.mask(exact, space, genome), images.double())
        assert relative_difference(masked, outputs(small, images.double())) <= 1e-9
        single = outputs(ep.mask(model, space, genome), images)
        assert relative_difference(single, outputs(ep.compact(model, space, genome), images)) <= 1e-4
        price = ep.cost(space, genome)
        vectors = sum(tensor.numel() for tensor in small.parameters() if tensor.ndim == 1)
        weights = sum(int(tensor.count_nonzero()) for tensor in small.parameters() if tensor.ndim > 1)
        assert price.params == vectors + weights
        assert price.macs == counted_macs(small, images[:1].double())

    check()


def test_two_layers_counted_by_hand() -> None:
    """3 maps of 3x3 over 2 inputs on 6x6 places, then 2 maps of 1x5 on 6x2 places."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, (1, 5))).eval()
    space = ep.search_space(model, torch.randn(1, 2, 8, 8), kernels=True, strides=True)
    full = ep.cost(space, space.full())
    assert full.macs == 36 * 3 * 2 * 9 + 12 * 2 * 3 * 5
    assert full.params == 3 * 2 * 9 + 3 + 2 * 3 * 5 + 2
    assert full.bytes == 4 * full.params
    # genes: maps 0-2, kernels of "0" 3-8 and of "2" 9-14, strides of "0" 15-16 and of "2" 17-19
    genome = space.full()
    genome[1] = 0  # the middle map
    genome[3] = 0  # kernel (0, 0) of "0"
    genome[16] = 3  # three taps (stride 3) of the kernels that leave input 1
    genome[19] = 1  # taps 0, 2, 4 of the kernels that leave map 2
    price = ep.cost(space, genome)
    first = 0 + 3 + 9 + 3  # kernels (0, 1), (2, 0), (2, 1)
    second = 2 * (5 + 3)
    assert price.macs == 36 * first + 12 * second
    assert price.params == first + 2 + second + 2
    # as stored: "0" 15 weights, 3 kernels of 2 bytes, 2 masks of 2; "2" 16 weights, 4 kernels, 2 masks; two biases of 2
    assert price.bytes == (60 + 6 + 4) + (64 + 8 + 4) + 8 + 8


def test_what_was_not_finite_is_gone_too() -> None:
    """Zeros are written, not multiplied: a weight that is NaN contributes nothing once it is masked."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1)).eval()
    space = ep.search_space(model, torch.randn(1, 2, 8, 8), feature_maps=False, kernels=True)
    genome = space.full()
    genome[0] = 0
    with torch.no_grad():
        model.get_parameter("0.weight")[0, 0] = torch.nan
    for change in (ep.mask, ep.compact):
        weight = change(model, space, genome).get_parameter("0.weight").detach()
        assert not weight[0, 0].any()
        assert not weight[0, 0].signbit().any()
        assert weight.isfinite().all()
