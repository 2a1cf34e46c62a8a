"""The search whose scorer does nothing: a whole one, in small."""

from pathlib import Path

import pandas as pd
from typer.testing import CliRunner

from evoprune.bench.overhead import bench_overhead, write_row
from evoprune.cli.main import app
from evoprune.config.schema import WorkersConfig


def test_every_candidate_passes_through(tmp_path: Path) -> None:
    row = bench_overhead(population=16, generations=3, workers=WorkersConfig(backend="serial"))
    assert (row.backend, row.workers, row.candidates) == ("serial", 1, 64)
    assert row.candidates_per_second > 0
    write_row(tmp_path / "row.csv", row)
    assert pd.read_csv(tmp_path / "row.csv")["candidates"].tolist() == [64]


def test_too_small_a_population_is_refused() -> None:
    done = CliRunner().invoke(app, ["bench", "overhead", "--population", "3"])
    assert done.exit_code == 2
