"""Fused networks: the same logits as the plain ones, whatever is put into their modules; what is fused and what not."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.discovery.discover import search_space
from evoprune.scoring.fusion import FusedNetwork, fused, halved
from evoprune.space.tensors import cut
from evoprune.surgery.recalibration import recalibrate
from tests.scoring.problems import NETWORKS, PIXELS


def images(count: int = 24, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, PIXELS, PIXELS, generator=torch.Generator().manual_seed(seed))


def made(network: nn.Module) -> FusedNetwork:
    found = fused(network)
    assert found is not None
    return found


def kinds(network: FusedNetwork) -> list[str]:
    """Names of the modules, functions and methods that run, in order."""
    graph = network._graph
    modules = dict(graph.named_modules())
    return [
        type(modules[str(node.target)]).__name__ if node.op == "call_module" else getattr(node.target, "__name__", "")
        for node in graph.graph.nodes
        if node.op.startswith("call")
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_logits_at_every_width(name: str, dtype: torch.dtype) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = NETWORKS[name]().to(dtype).eval()
    space = search_space(network, images(1).to(dtype))
    seen, calibration = images(8, seed=1).to(dtype), images(20, seed=2).to(dtype)
    genomes = [space.full(), *(space.random(np.random.default_rng(seed), 0.6) for seed in range(2))]
    for genome in genomes:
        changing = copy.deepcopy(network)
        fast = made(changing)
        cut(changing, space, genome)
        plain = copy.deepcopy(changing)
        recalibrate(plain, calibration, batch_size=8)
        with torch.inference_mode():
            fast.calibrate(calibration, batch_size=8)
            expected, found = plain(seen), fast(seen)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-10
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_what_a_layer_string_becomes() -> None:
    network = NETWORKS["plain"]().eval()
    assert kinds(made(network)) == [
        *("FusedBlock", "halved", "FusedBlock", "halved", "Flatten", "FusedBlock", "Linear"),
    ]


def test_every_convolution_of_a_residual_network_is_fused() -> None:
    network = NETWORKS["residual"]().eval()
    left = kinds(made(network))
    assert left.count("FusedBlock") == sum(isinstance(module, nn.Conv2d) for module in network.modules())
    assert not {"Conv2d", "BatchNorm2d"} & set(left)


class Sharing(nn.Module):
    """Parts that must not be fused: outputs with two readers, a batch norm and a layer used twice, a hooked layer."""

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.used_twice = nn.Conv2d(4, 4, 3, padding=1)
        self.hooked, self.norm_behind = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.hooked.register_forward_hook(lambda module, args, output: 2 * output + 1)
        self.fine, self.norm_alone = nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read_twice(x)
        x = F.relu(self.norm(x) + x)
        x = self.used_twice(self.used_twice(x))
        x = self.norm_behind(self.hooked(x))
        return self.norm_alone(self.fine(x)).relu().mean((2, 3))


def test_what_has_other_readers_or_hooks_is_left_alone() -> None:
    torch.manual_seed(0)
    network = Sharing().eval()
    fast = made(network)
    assert kinds(fast).count("BatchNorm2d") == 2
    assert kinds(fast).count("Conv2d") == 3  # the one used twice, and the hooked one
    plain = copy.deepcopy(network)
    recalibrate(plain, images(16))
    with torch.inference_mode():
        fast.calibrate(images(16), 256)
        torch.testing.assert_close(fast(images(4, seed=3)), plain(images(4, seed=3)), rtol=1e-4, atol=1e-4)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_without_a_graph_is_none() -> None:
    assert fused(Branching()) is None


class Scaled(nn.Module):
    """A parameter that no module reads: it has to be the one that was put in last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) * self.scale).flatten(1)


def test_parameters_of_the_networks_own_are_those_of_now() -> None:
    network = Scaled().eval()
    fast = made(network)
    network.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0])[:, None, None])
    with torch.inference_mode():
        fast.calibrate(images(2), 256)
        torch.testing.assert_close(fast(images(2)), network(images(2)))


def test_relu6_of_a_mobile_network() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.constant_(norm.weight, 9.0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU6(), nn.Flatten()).eval()
    fast, plain = made(network), copy.deepcopy(network)
    recalibrate(plain, images(16))
    with torch.inference_mode():
        fast.calibrate(images(16), 256)
        found = fast(images(16))
        torch.testing.assert_close(found, plain(images(16)), rtol=1e-4, atol=1e-4)
    assert (found.min(), found.max()) == (0, 6)
    assert kinds(fast) == ["FusedBlock", "Flatten"]


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (2, 3)])
def test_halving_is_max_pooling(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    maps[0, 0, 0, 1] = torch.nan
    torch.testing.assert_close(halved(maps), F.max_pool2d(maps, 2), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, 2), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, padding=1), nn.MaxPool2d(2, ceil_mode=True)],
    ids=str,
)
def test_other_pooling_stays_the_librarys(pool: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), pool).eval()
    assert kinds(made(network)) == ["FusedBlock", "MaxPool2d"]
