"""Reductions over maps run over the maps that stay, in the masked as in the compacted network."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import evoprune as ep
from tests.discovery.agreement import groups_of, reasons_of, searched


class Between(nn.Module):
    """8 maps, a reduction over them, 6 maps, classes. vectors: names of parameters that the reduction reads."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        reduce: Callable[["Between", Tensor], Tensor],
        norm: nn.Module | None = None,
        vectors: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)
        self.reduce, self.norm = reduce, norm or nn.Identity()
        for name in vectors:
            self.register_parameter(name, nn.Parameter(torch.rand(8) + 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.reduce(self, self.a(x))).relu().mean((2, 3)))


class LayerNorm2d(nn.Module):
    """As in ConvNeXt's own code, for both orders of dimensions."""

    def __init__(self, maps: int, last: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(maps) + 0.5), nn.Parameter(torch.rand(maps))
        self.normalized_shape, self.last = (maps,), last

    def forward(self, x: Tensor) -> Tensor:
        if self.last:
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, 1e-6)
        centred = x - x.mean(1, keepdim=True)
        x = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class GlobalResponseNorm(nn.Module):
    """As in ConvNeXt V2; maps lie along the last dimension."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(1, 1, 1, maps)), nn.Parameter(torch.rand(1, 1, 1, maps))

    def forward(self, x: Tensor) -> Tensor:
        energy = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return self.gamma * (x * (energy / (energy.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + x


class SpatialGate(nn.Module):
    """CBAM: a gate from the mean and the maximum over maps."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.gate(both))


def first(net: Between, x: Tensor) -> Tensor:
    return net.norm(x)


def last(net: Between, x: Tensor) -> Tensor:
    return net.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def rescaled(net: Between, x: Tensor) -> Tensor:
    lowest, highest = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - lowest) / (highest - lowest + 0.1)


def standardised(net: Between, x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, 1, keepdim=True, correction=0)
    return (x - mean) / (variance + 0.1).sqrt()


def three_in_one_forward(net: Between, x: Tensor) -> Tensor:
    """Reductions of one kind over other maps and over pixels, before and between."""
    pixels = x.mean((2, 3), keepdim=True)
    return x - x.mean(1, keepdim=True) + pixels.relu().mean(1, keepdim=True) * net.scale.mean()


REDUCTIONS: dict[str, tuple[Between, int]] = {
    "normalize": (Between(lambda net, x: F.normalize(x, dim=1)), 8),
    "normalize, first norm": (Between(lambda net, x: F.normalize(x, p=1.0, dim=1)), 8),
    "cosine similarity": (Between(lambda net, x: x * F.cosine_similarity(x, x.flip(2), dim=1)[:, None]), 8),
    "sum": (Between(lambda net, x: x * x.sum(1, keepdim=True)), 8),
    "maximum of maps of any sign": (Between(lambda net, x: x - x.amax(1, keepdim=True)), 8),
    "log of sum of exponents": (Between(lambda net, x: x - x.logsumexp(1, keepdim=True)), 8),
    "number of positive maps": (Between(lambda net, x: x / (1 + (x > 0).count_nonzero(1)[:, None])), 8),
    "smallest and largest of all": (Between(rescaled), 8),
    "mean and variance": (Between(standardised), 8),
    "norm of flattened maps": (Between(lambda net, x: x / x.flatten(1).norm(dim=1)[:, None, None, None]), 8),
    "mean of the image": (Between(lambda net, x: x * x.mean()), 8),
    "three means in one forward": (Between(three_in_one_forward, vectors=["scale"]), 8),
    "softmax": (Between(lambda net, x: x * x.softmax(1)), 8),
    "layer norm by hand": (Between(first, LayerNorm2d(8, last=False)), 8),
    "layer norm by function": (Between(last, LayerNorm2d(8, last=True)), 8),
    "layer norm without scale": (Between(last, nn.LayerNorm(8, elementwise_affine=False)), 8),
    "layer norm of maps and pixels": (Between(first, nn.LayerNorm([8, 6, 6])), 8),
    "layer norm of any shape": (Between(lambda net, x: F.layer_norm(x, x.shape[1:])), 8),
    "rms norm": (Between(last, nn.RMSNorm(8)), 8),
    "rms norm without scale": (Between(last, nn.RMSNorm(8, elementwise_affine=False)), 8),
    "group norm without scale": (Between(first, nn.GroupNorm(2, 8, affine=False)), 4),
    "group norm by function": (
        Between(lambda net, x: F.group_norm(x, 2, net.scale, net.shift), vectors=["scale", "shift"]),
        4,
    ),
    "global response norm": (Between(last, GlobalResponseNorm(8)), 8),
    "spatial gate": (Between(first, SpatialGate()), 8),
}


def images(size: int = 6) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", list(REDUCTIONS))
def test_maps_that_are_reduced_can_go(name: str) -> None:
    model, genes = REDUCTIONS[name]
    assert groups_of(searched(model, images(), keeps=(0.3, 0.5, 0.8))) == {("a",): genes, ("b",): 6}


STAYS: dict[str, tuple[Between, str]] = {
    "position of the maximum": (Between(lambda net, x: x * x.max(1, keepdim=True)[1]), "position of its maximum"),
    "argmax": (Between(lambda net, x: x * x.argmax(1, keepdim=True)), "takes all its maps together"),
    "sum over the width": (Between(lambda net, x: x * x.sum(1, keepdim=True) / x.shape[1]), "outputs differ"),
    "median": (Between(lambda net, x: x - x.median(1, keepdim=True)[0]), "median"),
    "running sum": (Between(lambda net, x: x.cumsum(1)), "takes all its maps together"),
}


@pytest.mark.parametrize("name", list(STAYS))
def test_maps_whose_places_or_number_matter_stay(name: str) -> None:
    model, reason = STAYS[name]
    space = searched(model, images(), keeps=(0.5,))
    assert groups_of(space) == {("b",): 6}
    assert reason in reasons_of(space)["a"]


def test_the_mean_is_of_the_maps_that_stay() -> None:
    """Two of four maps stay: the masked network divides by two, not by four."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), Centred(), nn.Conv2d(4, 3, 1)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1, 1))  # type: ignore[operator]
        model[0].bias.zero_()  # type: ignore[operator]
    space = ep.search_space(model, torch.randn(1, 1, 2, 2))
    genome = space.full()
    genome[[1, 3]] = 0
    ones = torch.ones(1, 1, 1, 1)
    with torch.no_grad():
        masked = ep.mask(model, space, genome)[:2](ones).flatten()  # type: ignore[index]
        assert masked[[0, 2]].tolist() == [-1, 1]  # 1 and 3 less their mean, 2
        assert ep.compact(model, space, genome)[:2](ones).flatten().tolist() == [-1, 1]  # type: ignore[index]


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["rms norm", "normalize", "layer norm without scale", "norm of flattened maps"])
def test_a_masked_network_runs_in_all_modes_on_images_of_any_size(name: str, context: Any) -> None:
    model = copy.deepcopy(REDUCTIONS[name][0]).eval()
    space = ep.search_space(model, images())
    genome = space.random(np.random.default_rng(0), 0.5)
    model = model.double()
    masked, small = copy.deepcopy(ep.mask(model, space, genome)), ep.compact(model, space, genome)
    for size in (6, 9):
        with context():
            x = images(size).double()
            assert torch.allclose(masked(x), small(x), atol=1e-14, rtol=1e-12)


def test_a_masked_network_survives_an_error_of_its_forward() -> None:
    model = copy.deepcopy(REDUCTIONS["normalize"][0]).eval()
    space = ep.search_space(model, images())
    genome = space.random(np.random.default_rng(0), 0.5)
    masked, small = ep.mask(model, space, genome), ep.compact(model, space, genome)
    with pytest.raises(RuntimeError):
        masked(torch.zeros(1, 4, 6, 6))
    assert torch.allclose(masked(images()), small(images()), atol=1e-6)
    assert torch.equal(torch.ones(1, 8).mean(1), torch.ones(1))
