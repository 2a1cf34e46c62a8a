"""Layers are timed on the inputs that they get, as often as they are called."""

import pytest
import torch
from torch import Tensor, nn

from evoprune.latency import network_latency as latency
from evoprune.latency.layer_latency import layer_latencies_ms


class Counting(nn.Module):
    """Notes the shapes of what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def forward(self, maps: Tensor, *, negate: bool = False) -> Tensor:
        self.shapes.append(maps.shape)
        return -maps if negate else maps


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once, self.never = Counting(), Counting(), Counting()

    def forward(self, image: Tensor) -> Tensor:
        maps = self.twice(image)
        return self.once(self.twice(maps[:, :, :2], negate=True))


def test_each_layer_of_each_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "SECONDS_A_ROUND", 1e-4)
    networks = {"a": Network(), "b": Network()}
    times = layer_latencies_ms(networks, ["twice", "once", "never", "no_module"], torch.zeros(1, 1, 4, 4))
    assert {name: list(of_layer) for name, of_layer in times.items()} == {name: ["twice", "once"] for name in "ab"}
    assert all(time > 0 for of_layer in times.values() for time in of_layer.values())
    shapes = networks["a"].twice.shapes
    assert shapes.count(torch.Size((1, 1, 4, 4))) == shapes.count(torch.Size((1, 1, 2, 4)))
    assert len(shapes) > 2
    assert networks["a"].never.shapes == []
    assert not networks["a"].twice._forward_pre_hooks


def test_hooks_are_removed_when_the_network_fails() -> None:
    network = Network()
    with pytest.raises(IndexError):
        layer_latencies_ms({"a": network}, ["twice"], torch.zeros(1, 1))
    assert not network.twice._forward_pre_hooks
