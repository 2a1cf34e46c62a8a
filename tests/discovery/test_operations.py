"""Single operations between two convolutions: their maps go, in the right number of genes, or stay for a reason."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.discovery.discover import search_space
from evoprune.discovery.proof import relative_difference
from evoprune.space.search_space import SearchSpace
from evoprune.surgery.apply import compact, mask
from tests.space.blocks import conv_bn, head


class Between(nn.Module):
    """8 maps, an operation that keeps their shape, 12 maps, classes. It may use `extra` and `vector`."""

    vector: Tensor

    def __init__(
        self,
        operation: Callable[["Between", Tensor], Tensor],
        maps: int = 8,
        with_vector: bool = False,
        **extra: nn.Module,
    ) -> None:
        super().__init__()
        self.stem, self.last, self.head = conv_bn(3, 8), conv_bn(maps, 12), head(12)
        self.extra = nn.ModuleDict(extra)
        if with_vector:
            self.vector = nn.Parameter(torch.randn(8, 1, 1))
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.operation(self, self.stem(x))))


def film(net: Between, x: Tensor) -> Tensor:
    scale, shift = net.extra["gate"](x.mean((2, 3))).chunk(2, 1)
    return x * scale[:, :, None, None] + shift[:, :, None, None]


def halves(net: Between, x: Tensor) -> Tensor:
    one, other = net.extra["wide"](x).chunk(2, 1)
    return one * other


def response_norm(net: Between, x: Tensor) -> Tensor:
    energy = x.norm(p=2, dim=(2, 3), keepdim=True)
    return net.vector * x * (energy / energy.mean(1, keepdim=True)) + x


def shifted(net: Between, x: Tensor) -> Tensor:
    """A temporal shift: part of the maps comes from the next image of the batch."""
    part, moved = x.shape[1] // 4, torch.zeros_like(x)
    moved[:-1, :part] = x[1:, :part]
    moved[:, part:] = x[:, part:]
    return moved


def both_layouts(net: Between, x: Tensor) -> Tensor:
    """One layer norm that sees maps last in images and in sequences."""
    norm = net.extra["norm"]
    rows = norm(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
    return rows + norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def half_in_place(net: Between, x: Tensor) -> Tensor:
    x[:, :4] += x[:, 4:]
    return x


def tied(net: Between, x: Tensor) -> Tensor:
    conv = net.extra["conv"]
    return F.conv_transpose2d(F.relu(conv(x)), conv.weight, padding=1)  # type: ignore[arg-type]


def through_python(net: Between, x: Tensor) -> Tensor:
    return x * x.amax((0, 2, 3))[0].item()


GOES: dict[str, tuple[Between, int]] = {
    "reverse": (Between(lambda net, x: x.flip(1)), 8),
    "add the reverse": (Between(lambda net, x: x + x.flip(1)), 4),
    "unbind and stack": (Between(lambda net, x: torch.stack(x.unbind(1), 1)), 8),
    "maximum of halves": (Between(lambda net, x: x.view(x.size(0), 2, -1, 6, 6).amax(1), maps=4), 4),
    "maximum of neighbours": (Between(lambda net, x: x.view(x.size(0), -1, 2, 6, 6).amax(2), maps=4), 4),
    "positive and negative": (Between(lambda net, x: torch.cat([x, -x], 1).relu(), maps=16), 8),
    "repeat": (Between(lambda net, x: x.repeat(1, 2, 1, 1), maps=16), 8),
    "repeat each": (Between(lambda net, x: x.repeat_interleave(2, 1), maps=16), 8),
    "glu": (Between(lambda net, x: F.glu(x, 1), maps=4), 4),
    "halves multiplied": (Between(halves, wide=nn.Conv2d(8, 16, 1)), 8),
    "film": (Between(film, gate=nn.Linear(8, 16)), 8),
    "in place": (Between(lambda net, x: x.mul_(2).add_(1).clamp_(max=3)), 8),
    "choose by value": (Between(lambda net, x: torch.where(x > 0.3, x, -x) + 1), 8),
    "a vector": (Between(lambda net, x: x * net.vector, with_vector=True), 8),
    "norm over pixels": (Between(lambda net, x: net.extra["norm"](x), norm=nn.LayerNorm([6, 6])), 8),
    "norm without weights": (Between(lambda net, x: net.extra["norm"](x), norm=nn.BatchNorm2d(8, affine=False)), 8),
    "norm used twice": (
        Between(
            lambda net, x: net.extra["norm"](net.extra["norm"](x.permute(0, 2, 3, 1)).relu()).permute(0, 3, 1, 2),
            norm=nn.LayerNorm(8),
        ),
        8,
    ),
    "roll pixels": (Between(lambda net, x: x.roll((1, 2), (2, 3))), 8),
    "windows of pixels": (Between(lambda net, x: x.unfold(2, 2, 2).mean(-1)), 8),
    "softmax": (Between(lambda net, x: x.softmax(1)), 8),
    "root mean square": (Between(lambda net, x: x * (x.pow(2).mean(1, keepdim=True) + 1).rsqrt()), 8),
    "normalize": (Between(lambda net, x: F.normalize(x, dim=1)), 8),
    "global response norm": (Between(response_norm, with_vector=True), 8),
    "norm of everything": (Between(lambda net, x: net.extra["norm"](x), norm=nn.LayerNorm([8, 6, 6])), 8),
    "mean in Python": (Between(lambda net, x: x * x.mean().item()), 8),
    "weights read backwards": (Between(tied, conv=nn.Conv2d(8, 10, 3, padding=1)), 8),
}

STAYS: dict[str, tuple[Between, str]] = {
    "roll maps": (Between(lambda net, x: x.roll(2, 1)), "fixed number of places"),
    "choose maps": (Between(lambda net, x: x[:, [3, 1, 0, 2, 7, 6, 5, 4]]), "picks single maps"),
    "running sum": (Between(lambda net, x: x.cumsum(1)), "takes all its maps together"),
    "top four": (Between(lambda net, x: x * (x >= x.topk(4, 1)[0][:, -1:])), "topk"),
    "temporal shift": (Between(shifted), "uneven part"),
    "local response norm": (Between(lambda net, x: F.local_response_norm(x, 3)), "read as pixels"),
    "two layouts": (Between(both_layouts, norm=nn.LayerNorm(8)), "does not run without"),
    "divided by the width": (Between(lambda net, x: x / x.shape[1]), "outputs differ"),
    "another rule when narrow": (Between(lambda net, x: x * (1.0 if x.shape[1] == 8 else 0.5)), "outputs differ"),
    "half in place": (Between(half_in_place), "does not run without"),
    "through Python": (Between(through_python), "picks single maps"),
    "constant of its width": (Between(lambda net, x: x * torch.arange(8.0)[:, None, None]), "something constant"),
}


def searched(net: Between) -> SearchSpace:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.uniform_(-0.5, 0.5)
        net.eval()
        space = search_space(net, torch.randn(2, 3, 6, 6))
        images = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    net = net.double()
    rng = np.random.default_rng(0)
    for keep in (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9):
        genome = space.random(rng, keep)
        with torch.no_grad():
            outputs = mask(net, space, genome)(images), compact(net, space, genome)(images)
        assert relative_difference(*outputs) <= 1e-9
    return space


@pytest.mark.parametrize("name", list(GOES))
def test_maps_go(name: str) -> None:
    net, genes = GOES[name]
    (group,) = [group for group in searched(net).groups if "stem.0" in group.layers]
    assert group.size == genes


@pytest.mark.parametrize("name", list(STAYS))
def test_maps_stay(name: str) -> None:
    net, reason = STAYS[name]
    space = searched(net)
    assert not [group for group in space.groups if "stem.0" in group.layers]
    assert reason in {part.name: part.reason for part in space.frozen}["stem.0"]
