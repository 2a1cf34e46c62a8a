"""What happens in training only decides no plan: norms, dropout, branches by chance, and auxiliary heads."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import evoprune as ep
from tests.space.blocks import conv_bn, head


class BatchNormAct(nn.BatchNorm2d):
    """A batch norm with a child, as in timm."""

    def __init__(self, maps: int) -> None:
        super().__init__(maps)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class OwnNorm(nn.Module):
    """A batch norm that is no subclass of PyTorch's, with a child."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(maps) + 0.5), nn.Parameter(torch.rand(maps))
        self.register_buffer("running_mean", torch.zeros(maps))
        self.register_buffer("running_var", torch.ones(maps))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        mean, var, training = self.running_mean, self.running_var, self.training
        return self.act(F.batch_norm(x, mean, var, self.weight, self.bias, training))


class Chain(nn.Module):
    """Three convolutions with norms; the last has a width that its reader has hard-coded."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.a, self.a_bn = nn.Conv2d(3, 16, 3), norm(16)
        self.b, self.b_bn = nn.Conv2d(16, 16, 3), norm(16)
        self.c, self.c_bn = nn.Conv2d(16, 8, 3), norm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b_bn(self.b(self.a_bn(self.a(x))))
        x = self.c_bn(self.c(x)).mean((2, 3))
        return self.fc(x.view(-1, 8))


@pytest.mark.parametrize("norm", [BatchNormAct, OwnNorm])
def test_a_norm_with_children_does_not_make_one_failing_group_take_the_others_along(norm: Any) -> None:
    model = Chain(norm).eval()
    before = copy.deepcopy(model.state_dict())
    space = ep.search_space(model, torch.randn(4, 3, 12, 12))
    assert [group.layers for group in space.groups] == [("a",), ("b",)]
    assert "does not run without" in {part.name: part.reason for part in space.frozen}["c"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.out = nn.Conv2d(1, 8, 3), nn.Linear(8 * 26 * 26, 50), nn.Linear(50, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.hidden(F.relu(self.conv(x)).flatten(1)))
        return self.out(F.dropout(x, training=self.training))


def test_functional_dropout_keeps_no_layer_whole() -> None:
    space = ep.search_space(Dropping().eval(), torch.randn(1, 1, 28, 28))
    assert [(group.layers, group.size) for group in space.groups] == [(("conv",), 8), (("hidden",), 50)]
    assert [part.name for part in space.frozen] == ["out"]


class DroppingMaps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3)
        self.out = head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout2d(self.a(x).relu(), training=self.training)
        return self.out(F.dropout2d(self.b(x).relu(), training=self.training))


def test_dropped_maps_keep_no_layer_whole() -> None:
    space = ep.search_space(DroppingMaps().eval(), torch.randn(2, 3, 8, 8))
    assert [group.layers for group in space.groups] == [("a",), ("b",)]


class StochasticDepth(nn.Module):
    """A residual branch that is skipped by chance in training, by the generator of one of three libraries."""

    def __init__(self, draw: Any) -> None:
        super().__init__()
        self.stem, self.b, self.out = conv_bn(3, 8), conv_bn(8, 8), head(8)
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if not self.training or self.draw() < 0.8:
            x = x + self.b(x)
        return self.out(x)


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), random.random, np.random.random])
def test_the_plan_does_not_depend_on_chance(draw: Any) -> None:
    model, example = StochasticDepth(draw).eval(), torch.randn(2, 3, 6, 6)
    for seed in range(12):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        space = ep.search_space(model, example)
        assert [(group.layers, group.size) for group in space.groups] == [(("stem.0", "b.0"), 8)]


def test_global_generators_are_left_as_they_were() -> None:
    model = Dropping().eval()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = torch.rand(1).item(), random.random(), np.random.random()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    ep.search_space(model, torch.zeros(1, 1, 28, 28))
    assert (torch.rand(1).item(), random.random(), np.random.random()) == expected


class NoisyHead(nn.Module):
    """An auxiliary head that runs in training only, with functional dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.head = conv_bn(3, 8), conv_bn(8, 12), head(12)
        self.side, self.hidden, self.logits = conv_bn(8, 6), nn.Linear(6, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        out = self.head(self.last(x))
        if not self.training:
            return out
        side = F.relu(self.hidden(self.side(x).mean((2, 3))))
        return out, self.logits(F.dropout(side, training=True))


def test_a_head_with_dropout_is_cut_along() -> None:
    model = NoisyHead().eval()
    space = ep.search_space(model, torch.randn(2, 3, 6, 6))
    layers = {layer for group in space.groups for layer in group.layers}
    assert {"stem.0", "last.0", "side.0"} <= layers
    small = ep.compact(model, space, space.random(np.random.default_rng(0), 0.5)).train()
    main, side = small(torch.randn(4, 3, 6, 6))
    assert main.shape == side.shape == (4, 5)
    (main.sum() + side.sum()).backward()
