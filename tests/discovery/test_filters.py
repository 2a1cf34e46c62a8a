"""Filters that are computed from parameters: groups by hand, mask equals compact exactly, and the cost."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.discovery.discover import search_space
from evoprune.space.cost import cost
from evoprune.surgery.apply import compact, mask
from evoprune.surgery.compensation import compensated
from evoprune.surgery.layer_statistics import gram_statistics
from evoprune.surgery.lowering.lower import lower
from tests.discovery.computed_filters import LAYERS, NORMALISED, Depthwise, Residual, Standardised

IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def made(make: object) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()  # type: ignore[operator]


def relative(one: Tensor, other: Tensor) -> float:
    return float(((one - other).abs().max() / other.abs().max()).detach())


@pytest.mark.parametrize("kind", LAYERS)
def test_computed_filters_lose_rows_and_columns(kind: str) -> None:
    """At half the maps, 8 * 27 + 8 * 8 * 9 + 12 * 8 * 9 weights a pixel of 16 * 27 + 16 * 16 * 9 + 24 * 16 * 9 stay."""
    network = made(lambda: Residual(LAYERS[kind]))
    space = search_space(network, IMAGES)
    suffix = ".conv" if kind == "merged" else ""
    assert [(group.name, group.size) for group in space.groups] == [(f"a{suffix} (+1)", 16), (f"c{suffix}", 24)]
    assert {part.name for part in space.frozen} == {"head"}
    assert {layer.normalised for layer in space.layers if layer.computed} == {kind in NORMALISED}
    assert search_space(network, IMAGES).fingerprint == space.fingerprint
    genome = space.random(np.random.default_rng(0), keep=0.5)
    low_rank = space.fixed_macs
    assert (low_rank > 0) == (kind == "merged")
    pixels, head = 144, 24 * 10
    assert cost(space, space.full()).macs == pixels * (432 + 2304 + 3456) + head + low_rank
    assert cost(space, genome).macs == pixels * (216 + 576 + 864) + head // 2 + low_rank
    small = compact(network, space, genome)
    assert sum(parameter.numel() for parameter in small.parameters()) == cost(space, genome).params
    assert relative(lower(network, space, genome, IMAGES)(IMAGES), small(IMAGES)) < 1e-5
    network, images = network.double(), IMAGES.double()
    assert relative(compact(network, space, genome)(images), mask(network, space, genome)(images)) < 1e-13


@pytest.mark.parametrize("kind", LAYERS)
def test_no_weight_of_a_computed_filter_is_compensated(kind: str) -> None:
    """The parameters are not the weights, so that a solution for weights would be none for them."""
    network = made(lambda: Residual(LAYERS[kind]))
    space = search_space(network, IMAGES, kernels=True)
    assert space.kernels == ()
    statistics = gram_statistics(network, space, IMAGES)
    assert set(statistics) <= {"head.weight"}
    genome = space.random(np.random.default_rng(0), keep=0.5)
    weights = dict(network.named_parameters())
    assert set(compensated(weights, space, space.check(genome), statistics)) <= {"head.weight", "head.bias"}


@pytest.mark.parametrize("groups", [4, 16])
def test_grouped_filters_that_are_standardised(groups: int) -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 16, 3), Standardised(16, 32, 3, groups=groups), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(self.a(x).sigmoid()).relu().mean((2, 3)))

    network = made(Grouped).double()
    space = search_space(network, IMAGES)
    assert "b" in {layer for group in space.groups for layer in group.layers}
    genome = space.random(np.random.default_rng(1), keep=0.5)
    images = IMAGES.double()
    assert relative(compact(network, space, genome)(images), mask(network, space, genome)(images)) < 1e-13
    assert cost(space, genome).macs < 0.6 * cost(space, space.full()).macs


def test_a_linear_layer_with_a_computed_weight() -> None:
    class Hidden(nn.Module):
        def __init__(self, standardised: bool) -> None:
            super().__init__()
            self.standardised = standardised
            self.a, self.b, self.c = nn.Linear(12, 16), Computed(16, 20), nn.Linear(20, 5)
            self.b.standardised = standardised

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x.flatten(1)).sigmoid()).sigmoid())

    class Computed(nn.Linear):
        standardised = False

        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight * 0.5
            if self.standardised:
                weight = weight - weight.mean(1, keepdim=True)
            return F.linear(x, weight, self.bias)

    images = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    for standardised in (False, True):
        network = made(lambda standardised=standardised: Hidden(standardised)).double()
        space = search_space(network, images)
        assert [(group.name, group.size) for group in space.groups] == [("a", 16), ("b", 20)]
        genome = space.random(np.random.default_rng(0), keep=0.5)
        assert cost(space, genome).macs == 12 * 8 + 8 * 10 + 10 * 5
        assert relative(compact(network, space, genome)(images), mask(network, space, genome)(images)) < 1e-13


@pytest.mark.parametrize("kind", ["parameter", "buffer", "expanded", "repeated"])
def test_a_depthwise_filter_for_as_many_maps_as_there_are(kind: str) -> None:
    network = made(lambda: Depthwise(kind)).double()
    space = search_space(network, IMAGES)
    assert [(group.layers[0], group.size) for group in space.groups] == [("a", 16), ("b", 24)]
    genome, images = space.random(np.random.default_rng(0), keep=0.5), IMAGES.double()
    assert relative(compact(network, space, genome)(images), mask(network, space, genome)(images)) < 1e-13
    # the maps of a have 10 * 10 pixels, the filtered ones 8 * 8, those of b 6 * 6
    filtered = 64 * 9 * np.array([16, 8 if kind in ("parameter", "buffer") else 16])
    others = [100 * 432 + 36 * 24 * 16 * 9 + 240, 100 * 216 + 36 * 12 * 8 * 9 + 120]
    assert [cost(space, one).macs for one in (space.full(), genome)] == (filtered + others).tolist()


class Inside(nn.Module):
    """The second of four convolutions is computed in the forward of the whole network."""

    def __init__(self, weight_of: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3)
        self.c, self.d = nn.Conv2d(12, 6, 3), nn.Conv2d(6, 4, 1)
        self.weight_of = weight_of

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = F.conv2d(x, self.weight_of(self.b.weight, x), self.b.bias).relu()
        return self.d(self.c(x).relu())


def _by_columns(weight: Tensor) -> Tensor:
    """The weight, by way of a shape in which the number of its rows is fixed."""
    return weight.transpose(0, 1).reshape(-1, 12, 9).view(-1, 12, 3, 3).transpose(0, 1)


@pytest.mark.parametrize(
    ("weight_of", "groups"),
    [
        (lambda weight, x: weight * x.mean().sigmoid(), ["c"]),  # it depends on the images
        (lambda weight, x: weight - weight.mean((1, 2, 3), keepdim=True), ["c"]),  # no module is that of the filter
        (lambda weight, x: weight * torch.ones(12, 8, 3, 3), ["c"]),  # a mask that cannot be cut
        (lambda weight, x: weight.flip(2, 3) * 2, ["a", "b", "c"]),
        (lambda weight, x: _by_columns(weight), ["a", "c"]),
    ],
    ids=["data", "standardised", "constant", "flipped", "fixed rows"],
)
def test_a_filter_in_the_forward_of_a_larger_module(weight_of: Any, groups: list[str]) -> None:
    network = made(lambda: Inside(weight_of)).double()
    space = search_space(network, IMAGES)
    assert [group.name for group in space.groups] == groups
    genome, images = space.random(np.random.default_rng(0), keep=0.5), IMAGES.double()
    assert relative(compact(network, space, genome)(images), mask(network, space, genome)(images)) < 1e-13
