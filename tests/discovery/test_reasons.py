"""The reason that a part stays whole is true, and a network that cannot be used is refused in one line."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evoprune.discovery.discover import search_space
from evoprune.errors import SearchSpaceError
from evoprune.space.plan import Frozen
from evoprune.space.summary import kind_of_reason, reason_reports, space_report
from evoprune.surgery.lowering.lower import lower

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class OneMap(nn.Module):
    """The output has one map; or one map of the same bias gates all others."""

    def __init__(self, gate: bool) -> None:
        super().__init__()
        self.gate = gate
        self.a, self.one, self.norm = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 1), nn.BatchNorm2d(1)
        self.head = nn.Linear(8, 4) if gate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        one = self.norm(self.one(x))
        return self.head((x * one.sigmoid()).mean((2, 3))) if self.gate else one


@pytest.mark.parametrize(
    ("gate", "reason"), [(False, "it is an output of the network"), (True, "it is one map that mul spreads over many")]
)
def test_a_layer_of_one_map(gate: bool, reason: str) -> None:
    space = search_space(OneMap(gate).eval(), IMAGES)
    assert {part.name: part.reason for part in space.frozen}["one"] == reason
    assert [group.name for group in space.groups] == ["a"]


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.c, self.head = nn.Conv2d(8, 6, 3, dtype=torch.complex64), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(self.b(self.a(x).relu()).to(torch.complex64)).abs()
        return self.head(x.mean((2, 3)))


def test_a_complex_convolution() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no cast drops imaginary parts
        space = search_space(Complex().eval(), IMAGES)
    assert {part.name: part.reason for part in space.frozen}["c"] == "its weights are complex"
    assert [group.name for group in space.groups] == ["a"]


class OptionalMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        self.w = nn.Parameter(torch.randn(8, 4, 3, 2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.b(self.a(x).relu()).relu()
        if mask is not None:
            x = x * mask
        spectrum = torch.fft.rfft2(x) * torch.view_as_complex(self.w)
        return self.head(torch.fft.irfft2(spectrum, s=x.shape[2:]).mean((2, 3)))


@pytest.mark.parametrize("more", [(), (torch.ones(2, 1, 4, 4),)], ids=["without", "with"])
def test_lowering_prints_nothing(more: tuple[Tensor, ...], capfd: pytest.CaptureFixture[str]) -> None:
    network, example = OptionalMask().eval(), (IMAGES, *more)
    space = search_space(network, example)
    lowered = lower(network, space, space.full(), example, stopwatch=lambda calls: [0.0 for _ in calls])
    assert torch.allclose(lowered(*example), network(*example), atol=1e-5)
    assert capfd.readouterr() == ("", "")


def test_an_example_of_keyword_arguments_is_refused_with_the_way_out() -> None:
    network: Any = OptionalMask().eval()
    space = search_space(network, IMAGES)
    for refused in (
        lambda: search_space(network, {"x": IMAGES}),
        lambda: lower(network, space, space.full(), {"x": IMAGES}),
    ):
        with pytest.raises(SearchSpaceError, match="give a tuple in the forward's order") as caught:
            refused()
        assert "\n" not in str(caught.value)


def test_a_reason_without_what_it_names() -> None:
    assert [
        kind_of_reason(reason)
        for reason in (
            "it is read by bmm (in layer1.0)",
            "space.keep names it (layer4.*)",
            "masked and cut outputs differ by 4.1e-02 of their scale",
            "the network does not run without some of its maps: expected 8 channels",
            "more.0, which did not run, may read it",
        )
    ] == [
        "it is read by bmm",
        "space.keep names it",
        "masked and cut outputs differ of their scale",
        "the network does not run without some of its maps",
        "a part, which did not run, may read it",
    ]


def test_the_share_of_macs_that_each_reason_keeps_whole() -> None:
    """Per image: a 3 * 8 * 9 * 36, one 8 * 36 = 7,776 + 288."""
    report = space_report("one map", search_space(OneMap(gate=False).eval(), IMAGES))
    (row,) = report.reasons
    assert (row.reason, row.layers, row.macs) == ("it is an output of the network", 1, 288)
    assert row.share == pytest.approx(288 / (7776 + 288))
    twice = [Frozen(row.name, f"it is read by bmm (in {row.name})") for row in report.layers]
    everything = [row.__class__(row.name, row.kind, row.maps, 0, row.macs, row.params) for row in report.layers]
    (row,) = reason_reports(everything, twice, report.macs)
    assert (row.reason, row.layers, row.macs, row.share) == ("it is read by bmm", 2, 8064, 1.0)
