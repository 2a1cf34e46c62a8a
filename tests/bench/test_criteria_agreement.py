"""Agreement with the oracle: correlations by hand, and the whole benchmark on a small trained network."""

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import evoprune as ep
from evoprune.bench.criteria_agreement import correlations
from evoprune.cli.main import app
from evoprune.config.choices import CriterionName
from evoprune.record.folder import RunFolder
from tests import tiny_runs
from tests.search.made_up import space_of


def test_correlations_by_hand() -> None:
    """Ranks within layers agree (1) and are reversed (-1).

    Over all: as they are, the second layer's values are a hundred times as large as they should be, ranks 1 2 3 6 5 4
    against 4 5 6 1 2 3: the sum of d^2 is 70 - 0 = 9 + 9 + 9 + 25 + 9 + 1 = 62, so 1 - 6 * 62 / 210.
    Over their norms (3.74 and 374.2): 0.267 0.535 0.802 and 0.802 0.535 0.267, ties between layers.
    """
    importance, oracle = np.array([1.0, 2, 3, 300, 200, 100]), np.array([4.0, 5, 6, 1, 2, 3])
    first, second, over_all, mean = correlations(space_of(3, 3), importance, oracle)
    assert (first, second, mean) == (("0", 3, 1, 1), ("1", 3, -1, -1), ("mean", 6, 0, 0))
    assert over_all[:2] == ("all", 6)
    assert over_all[2] == pytest.approx(1 - 6 * 62 / 210)
    ranks = np.array([1.5, 3.5, 5.5, 5.5, 3.5, 1.5])
    assert over_all[3] == pytest.approx(float(np.corrcoef(ranks, oracle)[0, 1]))


def test_parts_without_a_score_are_left_out() -> None:
    importance, oracle = np.array([1.0, 2, 3, np.nan, np.nan, np.nan]), np.array([4.0, 5, 6, 1, 2, 3])
    assert correlations(space_of(3, 3), importance, oracle) == [("0", 3, 1, 1), ("all", 3, 1, 1), ("mean", 3, 1, 1)]
    alike = correlations(space_of(3), np.ones(3), np.arange(3.0))
    assert alike == [("0", 3, None, None), ("all", 3, None, None), ("mean", 3, None, None)]


def test_the_whole_benchmark(tiny_run: ep.Run, tmp_path: Path) -> None:
    """A row a criterion and layer: three layers, all, mean. Batch-norm scale has nothing to say of the hidden layer."""
    config = tiny_runs.config_file(tmp_path, {"model.weights": str(RunFolder(tiny_run.root).baseline)})
    out = tmp_path / "table.csv"
    done = CliRunner().invoke(app, ["bench", "criteria", str(config), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "oracle: 28 maps, 64 images, 1 workers"
    table = pd.read_csv(out)
    rows = table.groupby("criterion").layer.apply(list).to_dict()
    layers = ["conv1", "conv2", "fc1", "all", "mean"]
    assert rows.pop("batch_norm_scale") == ["conv1", "conv2", "all", "mean"]
    assert rows == {name: layers for name in get_args(CriterionName) if name not in ("oracle", "batch_norm_scale")}
    assert table.spearman.between(-1, 1).all()
    assert table.spearman_normalised.between(-1, 1).all()
    single = table[~table.layer.isin(["all", "mean"])]
    assert (single.spearman == single.spearman_normalised).all()
    best = table[table.layer == "mean"].set_index("criterion").spearman
    assert best["taylor"] > 0.5 > best["random"]


def test_weights_are_needed(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "criteria", str(tiny_runs.config_file(tmp_path))])
    assert done.exit_code == 2
    assert "model.weights must name trained weights here" in done.stderr
