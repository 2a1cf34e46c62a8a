"""Workers that wait: a whole search in small, over the driver that real ones have."""

from pathlib import Path

import pandas as pd
import pytest

from evoprune.bench import scale
from evoprune.bench.scale import bench_scale, write_rows
from tests.shared_ray import SharedRay


def test_measured_and_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_ray: SharedRay) -> None:
    shared_ray.start()
    monkeypatch.setattr(scale, "GENERATIONS", 1)
    monkeypatch.setattr(scale, "MEASURED_IMAGES", 20)
    monkeypatch.setattr(scale, "CALIBRATION", 4)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    lines: list[str] = []
    rows = bench_scale([20], 0.05, lines.append)
    write_rows(tmp_path / "scale.csv", rows)
    table = pd.read_csv(tmp_path / "scale.csv")
    assert list(table) == [
        "workers",
        "simulated",
        "busy_share",
        "candidates_per_second",
        "driver_cpu_share",
        "driver_memory_mib",
        "bytes_per_candidate",
    ]
    assert table["workers"].tolist() == [1, 20]
    assert table["simulated"].tolist() == [False, True]
    assert (table["busy_share"] > 0).all()
    assert (table["busy_share"] <= 1).all()  # a simulated worker does one thing at a time
    assert lines[1].startswith("20 workers (simulated): busy ")
