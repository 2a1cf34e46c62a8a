"""Deep networks whose outputs hardly depend on their first maps: a fault is found, or no proof is claimed."""

import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.discovery.influence import UNSEEN, Unseen, unseen_groups

NONE: frozenset[str] = frozenset()


class Reverse(nn.Module):
    """Reverses the maps behind PyTorch's back, so that no rule can follow it."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y.detach().numpy()[:] = x.detach().numpy()[:, ::-1].copy()
        return y


def deep(layers: int, *, reverse: bool) -> nn.Module:
    """Convolutions of 8 maps, initialised at random: each layer shrinks what an input changes to a tenth or so."""
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    for layer in range(layers):
        parts += [Reverse()] if reverse and layer == 1 else []
        parts += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


def example() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layers", [2, 10, 20, 30])
def test_a_hidden_order_is_never_accepted(layers: int) -> None:
    space = ep.search_space(deep(layers, reverse=True), example())
    assert "2" not in {name for group in space.groups for name in group.layers}
    assert "2" in {part.name for part in space.frozen}


def test_groups_that_the_outputs_show_are_proved() -> None:
    """Ten layers change the outputs by 1e-5 of their scale: all of it is seen. Of thirty, the first ones are not."""
    assert len(ep.search_space(deep(10, reverse=False), example()).groups) == 11
    space = ep.search_space(deep(30, reverse=False), example())
    assert {part.reason for part in space.frozen if part.name in ("0", "2", "4")} == {UNSEEN}
    assert "60" in {name for group in space.groups for name in group.layers}


@pytest.mark.parametrize(
    ("scale", "unseen"),
    [(1e-6, Unseen(NONE, NONE)), (1e-12, Unseen(frozenset({"0"}), NONE)), (0.0, Unseen(NONE, frozenset({"0"})))],
)
def test_influence_is_the_change_of_the_outputs_over_their_scale(scale: float, unseen: Unseen) -> None:
    last = nn.Linear(4, 2)
    with torch.no_grad():
        last.weight.fill_(scale)
        last.bias.fill_(1.0)
    model = nn.Sequential(nn.Linear(3, 4), last).eval()
    plan = ep.search_space(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval(), torch.ones(1, 3))
    assert unseen_groups(model, plan, (torch.ones(1, 3),)) == unseen


def test_an_example_that_shows_nothing_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Without biases, an image of zeros gives zeros; the plan is kept, and what the proof could not see is said."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 3, bias=False)).eval()
    assert len(ep.search_space(model, torch.zeros(1, 1, 8, 8)).groups) == 1
    [message] = caplog.messages
    assert message.startswith("not proved, because the outputs on the example input do not depend on them: 0; give")
    caplog.clear()
    ep.search_space(model, torch.ones(1, 1, 8, 8))
    assert caplog.messages == []


class Gain(nn.Module):
    """A residual branch whose gain is 0 before training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.back = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1)
        self.gain, self.head = nn.Parameter(torch.zeros(())), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.gain * self.back(self.branch(x)))


def test_a_branch_that_is_off_is_proved_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    space = ep.search_space(Gain().eval(), torch.ones(1, 1, 8, 8))
    assert sorted(group.size for group in space.groups) == [4, 6]
    assert caplog.messages == []
