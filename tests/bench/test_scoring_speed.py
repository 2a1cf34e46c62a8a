"""The benchmark of scoring, on a small network: every way to score agrees, and what is recorded is what is read."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from evoprune.bench import scoring_speed as fitness
from evoprune.bench.population import read_population
from evoprune.bench.scoring_speed import Tally, agree, bench_fitness, shared_prefix_share, write_rows
from evoprune.config.loading import config_from_dict
from evoprune.config.schema import Config
from evoprune.discovery.discover import search_space
from evoprune.errors import ConfigError
from evoprune.pipeline.posing import pose
from evoprune.progress import SilentProgress
from evoprune.record.folder import RunFolder
from tests import tiny_runs
from tests.shared_ray import SharedRay

pytest.importorskip("torch_pruning")


@pytest.fixture(scope="module")
def config(tiny_run: object, tmp_path_factory: pytest.TempPathFactory) -> Config:
    weights = str(RunFolder(tiny_run.root).baseline)  # type: ignore[attr-defined]
    changed = {"model.weights": weights, "search.compensation": "none", "workers.backend": "ray", "workers.count": 1}
    return config_from_dict(tiny_runs.config().model_dump(mode="json"), changed)


def test_every_way_to_score_agrees_and_is_timed(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_ray: SharedRay
) -> None:
    shared_ray.start()
    monkeypatch.setattr(fitness, "convolution_gflops", lambda: 100.0)
    monkeypatch.setattr(fitness, "product_gflops", lambda: 100.0)
    lines: list[str] = []
    recorded = tmp_path / "population.json"
    rows = bench_fitness(config, recorded, 1, 1, SilentProgress(), lines.append)
    assert [row.method for row in rows][:4] == ["masked_dense", "torch_pruning", "ours", "ours_one_worker"]
    assert all(row.agrees for row in rows)
    assert {row.images for row in rows} == {config.data.validation}
    by_name = {row.method: row for row in rows}
    assert by_name["ours"].ours_over_this == 1
    assert by_name["masked_dense"].images_seen == by_name["ours_without_early_stop"].images_seen == 200
    assert by_name["ours"].images_seen < 200
    assert by_name["ours_without_known_front"].feasible == by_name["masked_dense"].feasible
    assert any("shared first layers" in line for line in lines)
    write_rows(tmp_path / "rows.csv", rows)
    assert {"method", "candidates_per_second", "ours_over_this", "agrees", "images", "workers"} <= set(
        pd.read_csv(tmp_path / "rows.csv").columns
    )
    population = read_population(recorded, config, pose(config).space)
    assert population.generation == 1
    assert len(population.known) >= 1
    assert sorted(population.conditions().order) == list(range(200))
    other = config_from_dict(config.model_dump(mode="json"), {"search.tolerance": 0.5})
    with pytest.raises(ConfigError, match=r"was recorded under another search.tolerance \(.*; remove it"):
        read_population(recorded, other, pose(config).space)
    assert "sha256" in json.loads(recorded.read_text())


def test_a_config_without_weights_is_refused(config: Config, tmp_path: Path) -> None:
    untrained = config_from_dict(config.model_dump(mode="json"), {"model.weights": None})
    with pytest.raises(ConfigError, match=r"model\.weights must name trained weights"):
        bench_fitness(untrained, tmp_path / "p.json", 1, 1, SilentProgress(), print)
    serial = config_from_dict(config.model_dump(mode="json"), {"workers.backend": "serial"})
    with pytest.raises(ConfigError, match=r"workers\.backend must be ray"):
        bench_fitness(serial, tmp_path / "p.json", 1, 1, SilentProgress(), print)


@pytest.mark.parametrize(
    ("found", "truth", "expected"),
    [
        (Tally(30, 100, True), Tally(31, 100, True), True),
        (Tally(30, 100, True), Tally(35, 100, True), False),
        (Tally(51, 60, False), Tally(70, 100, False), True),
        (Tally(51, 60, False), Tally(49, 100, True), True),  # a near tie
        (Tally(51, 60, False), Tally(40, 100, True), False),
        (Tally(41, 60, None), Tally(45, 100, True), True),  # beaten by one of 40 errors
        (Tally(41, 60, None), Tally(30, 100, True), False),
    ],
)
def test_agreement_by_hand(found: Tally, truth: Tally, expected: bool) -> None:
    assert agree(found, truth, beaten_above=40, tolerated=50) == expected


def test_shared_prefixes_by_hand() -> None:
    """Two layers of 2 and 4 maps: candidates with the same first layer share its MACs, the same one shares all."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Conv2d(2, 4, 1), torch.nn.Conv2d(4, 3, 1))
    space = search_space(network.eval(), torch.randn(1, 1, 5, 5))
    one, other = space.full(), space.full()
    other[-1] = 0  # of the second layer
    # of 9 places: 18 + 8 + 12 weights; the other's: 18 + 6 + 9
    assert shared_prefix_share(space, [one, one]) == 0.5
    assert shared_prefix_share(space, [one, other]) == pytest.approx(18 / (38 + 33))
    assert shared_prefix_share(space, [np.roll(one, 0)]) == 0
