"""The steps before a search's first score, of a small network."""

import csv
from pathlib import Path

import pytest

from evoprune.bench import start_up
from evoprune.bench.start_up import bench_start


def test_every_step_is_timed_and_a_network_is_not_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_up, "NETWORKS", (("squeezenet1_1", 32, 4),))
    monkeypatch.setattr(start_up, "VALIDATION", 8)
    out, told = tmp_path / "start.csv", list[str]()
    bench_start(out, None, told.append)
    with out.open(encoding="utf-8", newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["name"], row["pixels"], row["calibration"]) == ("squeezenet1_1", "32", "4")
    parts = [float(value) for name, value in row.items() if name.endswith("_seconds")]
    assert len(parts) == 5
    assert float(row["seconds"]) == pytest.approx(sum(parts), abs=0.5)
    assert 0.1 < float(row["peak_gib"]) < 8
    bench_start(out, ["squeezenet1_1"], told.append)
    assert len(told) == 1
