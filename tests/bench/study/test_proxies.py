"""Proxies of the result of training: trained shapes, and agreements worked out by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evoprune.bench.study import proxies
from evoprune.bench.study.proxies import ProxyRow, bench_proxies
from evoprune.bench.study.proxy_agreement import agreements, left_one_out, shape_table
from evoprune.bench.study.run_study import run_study
from evoprune.bench.study.study_tables import choices_path
from evoprune.errors import ConfigError
from evoprune.progress import SilentProgress
from tests.bench.study.test_run_study import study_of

SHAPE = ProxyRow("n", 0.1, 0, "widths", "k", 0.1, 100, 10.0, 0.5, 0, 0, 0, 2.0, 2.0, 0.5)


def table_of(path: Path, shapes: int) -> Path:
    """Shapes whose result is 1 + 0.1 * (their number); divergence falls with it, and early training ranks as it."""
    rows = []
    for shape in range(shapes):
        common = replace(SHAPE, key=f"k{shape}", divergence=100.0 - shape, params=100 + (shape * 37) % 11)
        result = 1 + 0.1 * shape
        rows += [
            common,
            replace(common, schedule_units=0.25, units=0.25, cross_entropy_validation=result + 1),
            replace(common, schedule_units=4.0, units=0.25, cross_entropy_validation=3 - result),
            replace(common, schedule_units=4.0, units=4.0, cross_entropy_validation=9.0, cross_entropy_test=result),
        ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_agreements_by_hand(tmp_path: Path) -> None:
    rows = {row.proxy: row for row in agreements(table_of(tmp_path / "t.csv", 6))}
    assert rows["divergence"].spearman == -1
    assert rows["divergence"].regret == pytest.approx(0.5)  # it takes the last of six shapes
    assert rows["cross entropy after 0.25 passes, schedule ends there"].spearman == 1
    assert rows["cross entropy after 0.25 passes, schedule ends there"].regret == 0
    assert rows["cross entropy after 0.25 passes, schedule ends there"].passes == 0.25
    assert rows["cross entropy after 0.25 passes, schedule goes on"].spearman == -1
    assert rows["divergence and log parameters"].spearman == 1  # a regression finds the sign
    assert rows["more parameters"].spearman == -rows["fewer parameters"].spearman


def test_few_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 4 shapes of n; 5 are the fewest"):
        agreements(table_of(tmp_path / "t.csv", 4))


def test_each_shape_is_predicted_from_the_others() -> None:
    """A line through the others: 0, 1, 2 -> 3; the shape's own result does not count."""
    predicted = left_one_out([np.arange(4.0)], np.array([0.0, 1.0, 2.0, 9.0]))
    assert predicted[3] == pytest.approx(3)


def test_shapes_are_trained_and_resumed(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every distinct shape has a row at each point; a resumed table equals an uninterrupted one, times aside."""
    monkeypatch.setattr(proxies, "SCHEDULES", ((1, (1,)), (4, (1, 4))))
    study = study_of(weights, seeds=[0])
    run_study(study, tmp_path / "study.csv", SilentProgress())
    choices, out = choices_path(tmp_path / "study.csv"), tmp_path / "proxies.csv"
    bench_proxies(study, choices, 0.5, 0, out, lambda line: None)
    whole = pd.read_csv(out)
    shapes = pd.read_csv(choices).query("target == 0.5").key.nunique()
    assert whole.key.nunique() == shapes
    assert len(whole) == 4 * shapes
    assert whole.groupby("key").units.max().between(0.5, 1.0).all()
    trained = shape_table(whole)
    assert (trained["result"] < whole[whole.units == 0].cross_entropy_test.mean()).all()
    whole[whole.key == whole.key[0]].to_csv(out, index=False)  # stopped after the first shape
    bench_proxies(study, choices, 0.5, 0, out, lambda line: None)
    resumed = pd.read_csv(out)
    pd.testing.assert_frame_equal(resumed.drop(columns="spent_seconds"), whole.drop(columns="spent_seconds"))
    with pytest.raises(ConfigError, match=r"has no choices of tiny at 0\.3 with seed 0"):
        bench_proxies(study, choices, 0.3, 0, out, lambda line: None)
