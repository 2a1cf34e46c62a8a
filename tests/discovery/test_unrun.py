"""Parts that did not run on the example input: they are named, and the network still runs when they are taken."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evoprune.config.schema import SpaceConfig
from evoprune.discovery.discover import explore, search_space
from evoprune.surgery.apply import compact, mask
from evoprune.surgery.lowering.lower import lower


class EarlyExit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.features = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3)
        self.first = nn.Linear(8, 5)
        self.more, self.last = nn.Conv2d(8, 12, 3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.stem(x).relu()).relu()
        first = self.first(x.mean((2, 3)))
        return first if first.max() > 0 else self.last(self.more(x).mean((2, 3)))


class Router(nn.Module):
    """One of two experts, of a list, adds to the maps that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        self.experts = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stem(x).relu()
        expert = self.experts[int(x.mean() > 0)]
        return self.head((maps + expert(maps)).mean((2, 3)))


class Concatenated(nn.Module):
    """What did not run reads two tensors side by side, or flattened pixels."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat = flat
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 9, 3, padding=1), nn.Conv2d(9, 4, 3)
        self.extra = nn.Linear(9 * 6 * 6, 5) if flat else nn.Conv2d(6 + 9, 5, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        b = self.b(a).relu()
        if x.mean() > 0:
            return self.extra(b.flatten(1)) if self.flat else self.extra(torch.cat((a, b), 1)).mean((2, 3))
        return self.head(self.c(b).mean((2, 3)))


def biased(network: nn.Module, bias: float) -> nn.Module:
    """An early exit that is always (bias > 0) or never taken."""
    with torch.no_grad():
        network.get_parameter("first.bias").fill_(bias)
    return network.eval()


EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
OTHER = EXAMPLE.neg()


def test_an_early_exit_keeps_what_the_rest_reads() -> None:
    network = biased(EarlyExit(), 100.0)
    space = search_space(network, EXAMPLE)
    reasons = {part.name: part.reason for part in space.frozen}
    assert [group.name for group in space.groups] == ["stem"]
    assert reasons["more"] == reasons["last"] == "it did not run on the example input"
    assert reasons["features"] == "more, which did not run, may read it"
    genome = space.random(np.random.default_rng(0), keep=0.5)
    small, masked = compact(network, space, genome), mask(network, space, genome)
    for bias in (100.0, -100.0):
        expected = biased(masked, bias)(EXAMPLE)
        assert torch.allclose(biased(small, bias)(EXAMPLE), expected, atol=1e-5)
    assert lower(network, space, genome, EXAMPLE)(EXAMPLE).shape == (2, 5)


@pytest.mark.parametrize(
    ("network", "unrun", "groups"),
    [
        (Router(), "experts.1", ["experts.0.0"]),
        (Concatenated(flat=False), "extra", ["c"]),
        (Concatenated(flat=True), "extra", ["a", "c"]),
    ],
)
def test_the_other_branch_still_runs(network: nn.Module, unrun: str, groups: list[str]) -> None:
    network.eval()
    space = search_space(network, EXAMPLE)
    assert [group.name for group in space.groups] == groups
    assert unrun in {part.name for part in space.frozen}
    genome = space.random(np.random.default_rng(0), keep=0.5)
    small, masked = compact(network, space, genome), mask(network, space, genome)
    for images in (EXAMPLE, OTHER):
        assert torch.allclose(small(images), masked(images), atol=1e-5)


class Replaced(nn.Module):
    """A forward that leaves the head and a layer aside for good: its code does not name them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 1)
        self.unused, self.offset = nn.Conv2d(8, 6, 3), nn.Parameter(torch.zeros(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()).relu()


class ByMethod(Replaced):
    def features(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        return (self.b(a) if x.numel() else self.otherwise(a)).relu()

    def otherwise(self, a: Tensor) -> Tensor:
        return self.unused(a)


class ByName(Replaced):
    def features(self, x: Tensor) -> Tensor:
        return getattr(self, "b" if x.numel() else "unused")(self.a(x).relu()).relu()


@pytest.mark.parametrize(("kind", "groups"), [(Replaced, ["a", "b"]), (ByMethod, []), (ByName, [])])
def test_what_the_forward_does_not_name_keeps_nothing(kind: type[Replaced], groups: list[str]) -> None:
    proof = explore(kind().eval(), EXAMPLE, SpaceConfig())
    assert [group.name for group in proof.space.groups] == groups
    reasons = {part.name: part.reason for part in proof.space.frozen}
    assert reasons["unused"] == reasons["offset"] == "it did not run on the example input"
    assert reasons.get("a") == (None if groups else "unused, which did not run, may read it")


def test_a_parameter_that_no_forward_reads() -> None:
    class Leftover(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
            self.offset = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return self[2](self[1](self[0](x)))

    space = search_space(Leftover().eval(), EXAMPLE)
    assert [group.name for group in space.groups] == ["0"]
    assert ("offset", "it did not run on the example input") in {(part.name, part.reason) for part in space.frozen}
