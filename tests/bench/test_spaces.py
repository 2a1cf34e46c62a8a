"""Tables of the search spaces of libraries: written a network at a time, taken up where they end."""

import csv
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from evoprune.bench.space_libraries import LIBRARIES, SEGMENTATION, TIMM
from evoprune.bench.spaces import library_spaces, prunable_macs_share, space_row
from evoprune.discovery.discover import search_space
from evoprune.errors import NetworkError


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_network_is_a_row_and_is_not_done_twice(tmp_path: Path) -> None:
    out = tmp_path / "spaces.csv"
    told: list[str] = []
    library_spaces("torchvision", out, ["squeezenet1_1"], told.append)
    (row,) = rows(out)
    # 64 maps in front, and 8 fire modules of three groups each: squeeze, 1x1 and 3x3.
    assert (row["name"], row["groups"], row["proved"], row["stays_whole"]) == ("squeezenet1_1", "25", "True", "")
    assert int(row["genes"]) == 64 + 2 * (16 + 128) + 2 * (32 + 256) + 2 * (48 + 384) + 2 * (64 + 512)
    assert float(row["prunable_macs_share"]) == 1
    assert 0 <= float(row["max_difference"]) < 1e-8
    assert 0.1 < float(row["peak_gib"]) < 4
    first = out.read_bytes()
    library_spaces("torchvision", out, ["squeezenet1_1"], told.append)
    assert out.read_bytes() == first
    assert len(told) == 1


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_network_that_no_library_has(tmp_path: Path, library: str) -> None:
    with pytest.raises(NetworkError, match="resnet9000"):
        library_spaces(library, tmp_path / "spaces.csv", ["resnet9000"], print)


def test_a_network_that_is_killed_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evoprune.bench.spaces.space_row", _killed)
    library_spaces("timm", tmp_path / "spaces.csv", ["lcnet_050"], lambda line: None)
    (row,) = rows(tmp_path / "spaces.csv")
    assert (row["proved"], row["stays_whole"]) == ("False", "its process was killed, perhaps for its memory")


def _killed(library: str, name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_architectures_of_timm_are_sixty_and_those_of_segmentation_ten() -> None:
    assert len(set(TIMM)) == 60
    assert len(set(SEGMENTATION)) == 10
    for name in TIMM:
        LIBRARIES["timm"].check(name)


def test_a_segmentation_network_has_prunable_maps_throughout() -> None:
    row = space_row("segmentation", "Linknet")
    assert (row.proved, row.prunable_macs_share, row.stays_whole) == (True, 1.0, "")


def test_the_prunable_share_of_macs() -> None:
    """At 4x4 pixels: 8 x 3 x 9 a pixel write prunable maps, 2 x 8 read them, and a branch of 2 x 3 does neither."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow, self.side = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.narrow(torch.relu(self.wide(x))) + self.side(x)

    space = search_space(Two(), torch.randn(1, 3, 4, 4))
    assert prunable_macs_share(space) == pytest.approx((216 + 16) / (216 + 16 + 6))
