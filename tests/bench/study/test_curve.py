"""Whole curves: methods that are more than genomes, other starts, costs in the table, times, pictures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import evoprune as ep
from evoprune.bench.study import run_study as study_module
from evoprune.bench.study.curve_plot import FAMILIES, SEARCHES, curve_figure, family
from evoprune.bench.study.methods import known_methods, methods_of
from evoprune.bench.study.run_study import run_study
from evoprune.bench.study.starts import within
from evoprune.bench.study.study_config import StudyConfig, load_study, network_config
from evoprune.bench.study.study_plot import plot_study
from evoprune.bench.study.study_tables import Tables
from evoprune.bench.study.study_timing import time_study
from evoprune.cli.main import app
from evoprune.config.loading import validated
from evoprune.config.strict_yaml import write_yaml
from evoprune.errors import ConfigError
from evoprune.pipeline.posing import pose
from evoprune.progress import SilentProgress
from evoprune.record import files
from evoprune.surgery.weight_masks import pack_sparse, with_masked_weights
from evoprune.training.evaluation import Evaluation
from evoprune.workers.retraining import Retraining
from tests.bench.study.small_study import NETWORK

METHODS = (
    "ranking:taylor:global",
    "ranking:l1:local:cubic",
    "unstructured:magnitude:global",
    "unstructured:synflow:local",
    "ranking:l1:local@rewind_weights",
    "ranking:l1:local@rewind_learning_rate",
    "ranking:l1:local@anew",
)


def curve_of(weights: Path, **changes: Any) -> StudyConfig:
    base = {
        "data": {"dataset": "tests.few_images:few", "validation": 50, "calibration": 16},
        "train": {"epochs": 3},
        "search": {"cost": "params", "population": 4, "generations": 1},
        "retrain": {"epochs": 2},
        "workers": {"backend": "serial"},
    }
    content = {
        "name": "curve",
        "base": base,
        "networks": {"tiny": {"model": {"network": NETWORK, "weights": str(weights)}}},
        "targets": [0.5, 0.25, 0.125],
        "seeds": [0],
        "methods": list(METHODS),
    }
    return validated(StudyConfig, content | changes)


@dataclass(frozen=True, eq=False)
class Curve:
    """A finished study. trained: how each batch of its networks was retrained."""

    study: StudyConfig
    out: Path
    trained: list[Retraining]


@pytest.fixture(scope="module")
def curve(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Curve:
    found = Curve(curve_of(weights), tmp_path_factory.mktemp("curve") / "curve.csv", [])
    retrained = study_module.retrain_and_test

    def recording(here: Any, genomes: Any, states: Any, retraining: Retraining) -> list[Evaluation]:
        found.trained.extend([retraining] * len(genomes))
        return retrained(here, genomes, states, retraining)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_module, "retrain_and_test", recording)
        run_study(found.study, found.out, SilentProgress())
    return found


def rows(out: Path, method: str) -> pd.DataFrame:
    table = pd.read_csv(out)
    return table[table.method == method].sort_values("target", ascending=False)


def test_every_cell_has_its_savings(curve: Curve) -> None:
    study, out = curve.study, curve.out
    table = pd.read_csv(out)
    assert len(table) == 3 * len(METHODS)
    assert (table.compression_ratio >= 1 / table.target - 2e-3).all()
    assert (table.compression_ratio < 1.4 / table.target).all()
    assert table.mcr_test.between(0, 1).all()
    assert table.mcr_before.between(0, 1).all()
    assert table.real_speedup.isna().all()
    problem = pose(network_config(study, "tiny"))
    whole = ep.cost(problem.space, problem.space.full())
    rows = {row.cell: row for row in Tables.read(out).rows}
    for choice in Tables.read(out).choices:
        row = rows[choice.cell]
        if not choice.method.startswith("unstructured"):
            left = ep.cost(problem.space, choice.genes)
            assert row.bytes == left.bytes
            assert row.compression_ratio == pytest.approx(whole.params / left.params, abs=1e-3)
            assert row.theoretical_speedup == pytest.approx(whole.macs / left.macs, abs=1e-3)


def test_single_weight_pruning_has_the_savings_of_its_masks(curve: Curve) -> None:
    """A quarter of all parameters, to one; as stored, with all that stays dense, to the byte."""
    study, out = curve.study, curve.out
    problem = pose(network_config(study, "tiny"))
    params = sum(parameter.numel() for parameter in problem.model.parameters())
    row = rows(out, "unstructured:magnitude:global").iloc[1]
    norms = sum(tensor.numel() for name, tensor in problem.model.named_parameters() if tensor.dim() == 1)
    kept = round((params // 4 - norms) / (params - norms) * (params - norms))
    assert row.compression_ratio == pytest.approx(params / (kept + norms), abs=2e-3)
    magnitudes = torch.cat([w.detach().abs().reshape(-1) for w in problem.model.parameters() if w.dim() > 1])
    threshold = magnitudes.sort(descending=True).values[kept - 1]
    masks = {n: w.detach().abs() >= threshold for n, w in problem.model.named_parameters() if w.dim() > 1}
    stored = pack_sparse(with_masked_weights(problem.model, masks).state_dict(), masks)
    assert row.bytes == sum(tensor.numel() * tensor.element_size() for tensor in stored.values())


def test_starts_differ_only_in_their_initial_weights(curve: Curve) -> None:
    """The last two of three epochs are trained again; with `anew` there are five, scheduled two times one."""
    table = pd.read_csv(curve.out)
    here = table[table.method.str.startswith("ranking:l1:local@")]
    assert here.groupby("target").key.nunique().tolist() == [1, 1, 1]
    found = [(one.config.start, one.config.epochs, one.last_epoch) for one in curve.trained]
    assert sorted(found) == 3 * [("anew", 5, 5)] + 3 * [("keep", 1, 1)] + 9 * [("keep", 2, 2)] + 3 * [
        ("rewind_learning_rate", 2, 3)
    ] + 3 * [("rewind_weights", 2, 3)]
    assert sum(one.zeros_stay for one in curve.trained) == 6
    early, _ = files.read_tensors(curve.out.with_name("curve_tiny_epoch_1.safetensors"))
    [rewound] = {id(one.rewound): one.rewound for one in curve.trained if one.rewound is not None}.values()
    assert all(torch.equal(early[name], tensor) for name, tensor in rewound.items())


def test_an_interrupted_curve_resumes(curve: Curve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rows of one scheduled and one unstructured method gone, just these come back, and alike."""
    study, out = curve.study, curve.out
    whole = Tables.read(out)
    gone = ("ranking:l1:local:cubic", "unstructured:synflow:local")
    parts = Tables(tmp_path / "parts.csv", [], [])
    parts.choose(whole.choices)
    parts.add([row for row in whole.rows if row.method not in gone])
    trained: list[int] = []
    retrained: Callable[..., list[Evaluation]] = study_module.retrain_and_test

    def counting(here: Any, genomes: Any, *rest: Any) -> list[Evaluation]:
        trained.append(len(genomes))
        return retrained(here, genomes, *rest)

    monkeypatch.setattr(study_module, "retrain_and_test", counting)
    again = run_study(study, parts.out, SilentProgress())
    assert trained == [3, 3]
    columns = ["method", "target"]
    pd.testing.assert_frame_equal(
        again.drop(columns="seconds").sort_values(columns, ignore_index=True),
        whole.frame.drop(columns="seconds").sort_values(columns, ignore_index=True),
    )


def test_times_are_filled_in_afterwards(curve: Curve, tmp_path: Path) -> None:
    """Networks alike are timed once; what has its time keeps it; nothing is trained again."""
    study, out = curve.study, curve.out
    whole = Tables.read(out)
    tables = Tables(tmp_path / "timed.csv", [], [])
    tables.choose(whole.choices)
    tables.add([*whole.rows[:-1], replace(whole.rows[-1], real_speedup=77.0)])
    (tmp_path / "study.yaml").write_text(write_yaml(study.model_dump(mode="json")))
    arguments = ["study", str(tmp_path / "study.yaml"), "--out", str(tables.out), "--time", "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert f"written  {tmp_path / 'timed.png'}" in result.output
    timed = pd.read_csv(tables.out)
    assert (timed.real_speedup > 0).all()
    assert timed.real_speedup.iloc[-1] == 77
    assert timed[timed.method.str.startswith("unstructured")].real_speedup.nunique() == 1
    assert len(timed) == len(whole.rows)
    before = tables.out.read_bytes()
    time_study(study, tables.out, SilentProgress())
    assert tables.out.read_bytes() == before


def test_the_genome_of_a_pruned_network_in_the_first_space() -> None:
    genome = np.array([1, 0, 1, 1, 0, 1], dtype=np.uint8)
    assert within(genome, np.array([0, 1, 1, 0], dtype=np.uint8)).tolist() == [0, 0, 1, 1, 0, 0]


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    """A panel a family; means over seeds at mean ratios, by hand."""
    methods = ["nsga2", "ranking:l1:local", "unstructured:obd:global"]
    cells = [(method, seed, target) for method in methods for seed in (0, 1) for target in (0.5, 0.25, 0.125)]
    table = pd.DataFrame(cells, columns=["method", "seed", "target"]).assign(
        network="n", compensation="gram", baseline_mcr_test=0.06, real_speedup=np.nan
    )
    table["mcr_test"] = 0.05 + 0.02 / table.target * (1 + table.seed) / 10
    table["compression_ratio"] = 1 / table.target
    figure = curve_figure(table)
    assert [axis.get_title() for axis in figure.axes] == [f"n: {SEARCHES}", "n: rankings, local", "n: single weights"]
    line = figure.axes[1].get_lines()[0]
    assert np.asarray(line.get_xdata()).tolist() == [2, 4, 8]
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([100 * (0.05 + 0.003 * ratio) for ratio in (2, 4, 8)])
    plot_study(table, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_every_method_has_its_panel() -> None:
    assert {family(method.name) for method in known_methods()} | {family("ranking:l1:local@anew")} == set(FAMILIES)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"methods": ["ranking:l3:local"]}, "methods: unknown method 'ranking:l3:local'; take some of widths, nsga2"),
        ({"methods": ["small_dense@anew"]}, "methods: unknown method 'small_dense@anew'"),
        ({"methods": ["unstructured:obd:local@anew"]}, "methods: unknown method 'unstructured:obd:local@anew'"),
        ({"methods": ["ranking:l1:local@later"]}, "methods: unknown method 'ranking:l1:local@later'"),
        (
            {"methods": ["ranking:l1:local:cubic"], "steps": 3},
            r"methods: ranking:l1:local:cubic: base.retrain.epochs must be a multiple of steps \(3\), not 2",
        ),
    ],
)
def test_mistakes(weights: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        methods_of(curve_of(weights, **changes))


@pytest.mark.parametrize(
    ("section", "key", "value", "method", "complaint"),
    [
        (
            "search",
            "cost",
            "macs",
            "unstructured:obd:local",
            "base.search.cost must be params for this method, which saves nothing else, not macs",
        ),
        ("train", "epochs", 1, "ranking:l1:local@rewind_weights", r"train.epochs must be at least base.retrain.epochs"),
        ("retrain", "start", "anew", "nsga2", "base.retrain.start must be keep here, not anew; write METHOD@START"),
    ],
)
def test_mistakes_of_the_base(
    weights: Path, section: str, key: str, value: object, method: str, complaint: str
) -> None:
    base = dict(curve_of(Path("x")).base)
    base[section] = base[section] | {key: value}
    with pytest.raises(ConfigError, match=complaint):
        methods_of(curve_of(weights, base=base, methods=[method]))


def test_the_shipped_curve_loads() -> None:
    """Every criterion of ours, six in both scopes, and one at least of every other kind."""
    study = load_study(Path(__file__).parents[3] / "experiments" / "curve_fashion.yaml")
    kinds = [method.kind for method in methods_of(study)]
    assert kinds.count("ranking") == 11 + 6 + 2
    assert {kind: kinds.count(kind) for kind in ("search", "scheduled", "unstructured", "small_dense")} == {
        "search": 2,
        "scheduled": 3,
        "unstructured": 4,
        "small_dense": 1,
    }
    assert network_config(study, "quarter_width").search.cost == "params"
    assert study.targets == (0.5, 0.25, 0.125, 0.0625)
