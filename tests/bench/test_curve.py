"""Whole curves: methods that are more than genomes, other starts, costs in the table, times, pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import evoprune as ep
from evoprune.bench import study as study_module
from evoprune.bench.curve_plot import FAMILIES, curve_figure, family
from evoprune.bench.study import run_study
from evoprune.bench.study_config import StudyConfig, load_study, network_config
from evoprune.bench.study_methods import known_methods, methods_of
from evoprune.bench.study_plot import plot_study
from evoprune.bench.study_starts import within
from evoprune.bench.study_table import Tables
from evoprune.bench.study_timing import time_study
from evoprune.errors import ConfigError
from evoprune.pipeline import pose
from evoprune.progress import SilentProgress
from evoprune.record import files
from evoprune.surgery.unstructured import masked, pack_sparse
from tests import tiny_runs
from tests.bench.test_study import baseline, study_of  # noqa: F401  (a fixture)

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
    study = study_of(weights)
    base = dict(study.base)
    base["search"] = base["search"] | {"cost": "params"}
    base["train"] = base["train"] | {"epochs": 3}
    base["retrain"] = base["retrain"] | {"epochs": 2}
    given = {"base": base, "targets": (0.5, 0.25, 0.125), "seeds": (0,), "methods": METHODS, "variants": {}}
    return study.model_copy(update=given | changes)


@pytest.fixture(scope="module")
def curve(tiny_run: ep.Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, Path]:
    """A finished study, its table in a folder of its own."""
    study, out = curve_of(tiny_run.root / "baseline.safetensors"), tmp_path_factory.mktemp("curve") / "curve.csv"
    with pytest.MonkeyPatch.context() as patch:
        tiny_runs.measure_briefly(patch)
        run_study(study, out, SilentProgress())
    return study, out


def rows(out: Path, method: str) -> pd.DataFrame:
    table = pd.read_csv(out)
    return table[table.method == method].sort_values("target", ascending=False)


def test_every_cell_says_what_is_saved(curve: tuple[StudyConfig, Path]) -> None:
    study, out = curve
    table = pd.read_csv(out)
    assert len(table) == 3 * len(METHODS)
    assert (table.compression_ratio >= 1 / table.target - 2e-3).all()
    assert (table.compression_ratio < 1.4 / table.target).all()
    assert table.mcr_test.between(0, 0.9).all()
    assert table.mcr_before.between(0, 1).all()
    assert table.real_speedup.isna().all()
    problem = pose(network_config(study, "tiny"))
    whole = ep.cost(problem.space, problem.space.full())
    for choice, row in zip(Tables.read(out).choices, Tables.read(out).rows, strict=False):
        if not choice.method.startswith("unstructured"):
            [row] = [row for row in Tables.read(out).rows if row.cell == choice.cell]
            left = ep.cost(problem.space, choice.genes)
            assert row.bytes == left.bytes
            assert row.compression_ratio == pytest.approx(whole.params / left.params, abs=1e-3)
            assert row.theoretical_speedup == pytest.approx(whole.macs / left.macs, abs=1e-3)


def test_single_weights_save_what_their_masks_do(curve: tuple[StudyConfig, Path]) -> None:
    """A quarter of all parameters, to one; as stored, with all that stays dense, to the byte."""
    study, out = curve
    problem = pose(network_config(study, "tiny"))
    params = sum(parameter.numel() for parameter in problem.model.parameters())
    row = rows(out, "unstructured:magnitude:global").iloc[1]
    norms = sum(tensor.numel() for name, tensor in problem.model.named_parameters() if tensor.dim() == 1)
    kept = round((params // 4 - norms) / (params - norms) * (params - norms))
    assert row.compression_ratio == pytest.approx(params / (kept + norms), abs=2e-3)
    magnitudes = torch.cat([w.detach().abs().reshape(-1) for w in problem.model.parameters() if w.dim() > 1])
    threshold = magnitudes.sort(descending=True).values[kept - 1]
    masks = {n: w.detach().abs() >= threshold for n, w in problem.model.named_parameters() if w.dim() > 1}
    stored = pack_sparse(masked(problem.model, masks).state_dict(), masks)
    assert row.bytes == sum(tensor.numel() * tensor.element_size() for tensor in stored.values())


def test_starts_differ_in_what_they_are_trained_from_alone(curve: tuple[StudyConfig, Path]) -> None:
    _, out = curve
    names = [name for name in METHODS if name.startswith("ranking:l1:local@")]
    for target in (0.5, 0.25, 0.125):
        table = pd.read_csv(out)
        here = table[table.method.isin(names) & (table.target == target)]
        assert here.key.nunique() == 1
        assert here.mcr_test.nunique() > 1
    early, _ = files.read_tensors(out.with_name("curve_tiny_epoch_1.safetensors"))
    assert not torch.isnan(early["conv1.weight"]).any()


def test_it_goes_on_where_it_stopped(
    curve: tuple[StudyConfig, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the rows of one scheduled and one unstructured method gone, just these come back, and alike."""
    tiny_runs.measure_briefly(monkeypatch)
    study, out = curve
    whole = Tables.read(out)
    gone = ("ranking:l1:local:cubic", "unstructured:synflow:local")
    parts = Tables(tmp_path / "parts.csv", [], [])
    parts.choose(whole.choices)
    parts.add([row for row in whole.rows if row.method not in gone])
    trained: list[int] = []
    retrained: Callable[..., list[float]] = study_module._retrained

    def counting(here: Any, genomes: Any, *rest: Any) -> list[float]:
        trained.append(len(genomes))
        return retrained(here, genomes, *rest)

    monkeypatch.setattr(study_module, "_retrained", counting)
    again = run_study(study, parts.out, SilentProgress())
    assert trained == [3, 3]
    columns = ["method", "target"]
    pd.testing.assert_frame_equal(
        again.drop(columns="seconds").sort_values(columns, ignore_index=True),
        whole.frame.drop(columns="seconds").sort_values(columns, ignore_index=True),
    )


def test_times_are_filled_in_afterwards(
    curve: tuple[StudyConfig, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks alike are timed once; what has its time keeps it."""
    tiny_runs.measure_briefly(monkeypatch)
    study, out = curve
    whole = Tables.read(out)
    tables = Tables(tmp_path / "timed.csv", [], [])
    tables.choose(whole.choices)
    tables.add([*whole.rows[:-1], ep_replace(whole.rows[-1], real_speedup=77.0)])
    timed = time_study(study, tables.out, SilentProgress())
    assert (timed.real_speedup > 0).all()
    assert timed.real_speedup.iloc[-1] == 77
    assert timed[timed.method.str.startswith("unstructured")].real_speedup.nunique() == 1
    assert len(timed) == len(whole.rows)
    before = tables.out.read_bytes()
    time_study(study, tables.out, SilentProgress())
    assert tables.out.read_bytes() == before


def ep_replace(row: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(row, **changes)


def test_a_pruned_networks_genome_within_the_first(curve: tuple[StudyConfig, Path]) -> None:
    genome = np.array([1, 0, 1, 1, 0, 1], dtype=np.uint8)
    assert within(genome, np.array([0, 1, 1, 0], dtype=np.uint8)).tolist() == [0, 0, 1, 1, 0, 0]


def test_the_curve_is_drawn(curve: tuple[StudyConfig, Path], tmp_path: Path) -> None:
    """A panel a family; means over seeds at mean ratios, by hand."""
    methods = ["nsga2", "ranking:l1:local", "unstructured:obd:global"]
    cells = [(method, seed, target) for method in methods for seed in (0, 1) for target in (0.5, 0.25, 0.125)]
    table = pd.DataFrame(cells, columns=["method", "seed", "target"]).assign(
        network="n", compensation="gram", baseline_mcr_test=0.06, real_speedup=np.nan
    )
    table["mcr_test"] = 0.05 + 0.02 / table.target * (1 + table.seed) / 10
    table["compression_ratio"] = 1 / table.target
    figure = curve_figure(table)
    assert [axis.get_title() for axis in figure.axes] == ["n: searches", "n: rankings, local", "n: single weights"]
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
        ({"methods": ("ranking:l3:local",)}, "methods: 'ranking:l3:local' is none; take some of nsga2, widths"),
        ({"methods": ("small_dense@anew",)}, "methods: 'small_dense@anew' is none"),
        ({"methods": ("unstructured:obd:local@anew",)}, "methods: 'unstructured:obd:local@anew' is none"),
        ({"methods": ("ranking:l1:local@later",)}, "methods: 'ranking:l1:local@later' is none"),
        (
            {"methods": ("ranking:l1:local:cubic",), "steps": 3},
            r"methods: ranking:l1:local:cubic: base.retrain.epochs must be a multiple of steps \(3\), not 2",
        ),
    ],
)
def test_mistakes(tiny_run: ep.Run, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        methods_of(curve_of(tiny_run.root / "baseline.safetensors", **changes))


@pytest.mark.parametrize(
    ("section", "key", "value", "method", "complaint"),
    [
        ("search", "cost", "macs", "unstructured:obd:local", "goes with base.search.cost params, not macs"),
        ("train", "epochs", 1, "ranking:l1:local@rewind_weights", r"train.epochs must be at least base.retrain.epochs"),
        ("retrain", "start", "anew", "nsga2", "base.retrain.start must be keep here, not anew; write METHOD@START"),
    ],
)
def test_mistakes_of_the_base(
    tiny_run: ep.Run, section: str, key: str, value: object, method: str, complaint: str
) -> None:
    base = dict(curve_of(Path("x")).base)
    base[section] = base[section] | {key: value}
    with pytest.raises(ConfigError, match=complaint):
        methods_of(curve_of(tiny_run.root / "baseline.safetensors", base=base, methods=(method,)))


def test_the_curve_that_comes_along_loads() -> None:
    """Every criterion of ours in both scopes, single weights, schedules, starts, a dense network, and our searches."""
    study = load_study(Path(__file__).parents[2] / "experiments" / "curve_fashion.yaml")
    kinds = [method.kind for method in methods_of(study)]
    assert kinds.count("ranking") == 2 * 11 + 3
    assert {kind: kinds.count(kind) for kind in ("search", "scheduled", "unstructured", "small_dense")} == {
        "search": 2,
        "scheduled": 3,
        "unstructured": 6,
        "small_dense": 1,
    }
    assert network_config(study, "quarter_width").search.cost == "params"
    assert study.targets == (0.5, 0.25, 0.125, 0.0625)
