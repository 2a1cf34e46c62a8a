"""A study of a tiny network: every method, resumed, summed up, drawn; Torch-Pruning's choices as genomes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch_pruning as tp
from typer.testing import CliRunner

import evoprune as ep
from evoprune.bench.study import run_study as study_module
from evoprune.bench.study.choosing import even_widths
from evoprune.bench.study.methods import known_methods
from evoprune.bench.study.run_study import run_study
from evoprune.bench.study.study_config import StudyConfig, load_study
from evoprune.bench.study.study_plot import plot_study, study_summary, worst_first
from evoprune.bench.study.study_tables import CELL
from evoprune.bench.study.torch_pruning_choices import IMPORTANCES, kept_at, torch_pruning_genome
from evoprune.cli.main import app
from evoprune.config.loading import validated
from evoprune.config.strict_yaml import write_yaml
from evoprune.data.splits import Split
from evoprune.errors import ConfigError
from evoprune.pipeline.posing import pose
from evoprune.progress import SilentProgress
from evoprune.record.folder import RunFolder
from evoprune.scoring.scorer import Problem
from evoprune.surgery.apply import compact
from evoprune.training.evaluation import Evaluation
from evoprune.workers.retraining import Retraining
from tests import tiny_runs
from tests.bench.study.small_study import NETWORK

METHODS = ("by_l1", "torch_pruning:l1:local", "small_dense")


def study_of(weights: Path, **changes: Any) -> StudyConfig:
    sections: dict[str, dict[str, Any]] = {
        "data": {"dataset": "tests.few_images:few", "validation": 50, "calibration": 16},
        "train": {"epochs": 1},
        "search": {"population": 6, "generations": 2},
        "retrain": {"epochs": 1},
        "workers": {"backend": "serial"},
    }
    content = {
        "name": "tiny",
        "base": sections,
        "networks": {"tiny": {"model": {"network": NETWORK, "weights": str(weights)}}},
        "targets": [0.5, 0.25],
        "seeds": [0, 1],
        "variants": {"by_l1": {"algorithm": "widths", "criterion": "l1"}},
        "methods": list(METHODS),
    }
    return validated(StudyConfig, content | changes)


@pytest.fixture(scope="module")
def problem(tiny_run: ep.Run) -> Problem:
    """Of a trained network."""
    return pose(tiny_runs.config({"model.weights": str(RunFolder(tiny_run.root).baseline)}))


@pytest.fixture(scope="module")
def train(tiny_run: ep.Run) -> Split:
    return tiny_runs.data(tiny_run).train


def test_every_cell_has_a_row(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows within their targets; stopped in the middle, it goes on to the same table without doing anything twice."""
    study = study_of(weights, seeds=[0], uncompensated_seeds=[3])
    whole = run_study(study, tmp_path / "whole.csv", SilentProgress())
    assert len(whole) == 2 * (len(METHODS) + len(METHODS[:-1]))
    assert set(whole[whole.compensation == "none"].method) == set(METHODS[:-1])  # a new network has nothing to make up
    assert not whole.duplicated(CELL).any()
    assert (whole.macs_ratio <= whole.target).all()
    assert (whole.macs_ratio > 0.5 * whole.target).all()
    assert whole.mcr_test.between(0, 1).all()
    assert whole.cross_entropy_test.between(0, 3).all()
    assert whole.baseline_mcr_test.nunique() == 1
    assert whole[whole.method == "by_l1"].scores.between(6, 6 * 3).all()
    assert set(whole[whole.method == "small_dense"].scores) == {0}
    written = pd.read_csv(tmp_path / "whole.csv")
    pd.testing.assert_frame_equal(written, whole, check_dtype=False)

    retrain, calls = study_module.retrain_and_test, 0

    def stopping(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return retrain(*args)

    monkeypatch.setattr(study_module, "retrain_and_test", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "parts.csv", SilentProgress())
    assert len(pd.read_csv(tmp_path / "parts.csv")) == 3
    calls = 10**6
    parts = run_study(study, tmp_path / "parts.csv", SilentProgress())
    assert calls == 10**6 + len(whole) - 3
    pd.testing.assert_frame_equal(parts.drop(columns="seconds"), whole.drop(columns="seconds"), check_dtype=False)


def test_only_networks_trained_from_scratch_have_no_teacher(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default; `small_dense:distilled` has a teacher. Both are also trained for the baseline's epochs."""
    methods = ["torch_pruning:l1:local", "small_dense", "small_dense:distilled"]
    study = study_of(weights, seeds=[0], targets=[0.5], methods=methods)
    study.base["retrain"] |= {"distillation": 0.5, "epochs": 2}
    study.base["train"] |= {"epochs": 3}
    taught: list[tuple[str, float, int]] = []

    def retrained(here: Any, genomes: Any, states: Any, retraining: Retraining) -> list[Evaluation]:
        taught.append((retraining.config.start, retraining.config.distillation, retraining.config.epochs))
        return [Evaluation(5, 10, 0.5)] * len(genomes)

    monkeypatch.setattr(study_module, "retrain_and_test", retrained)
    run_study(study, tmp_path / "taught.csv", SilentProgress())
    assert taught == [("keep", 0.5, 2), ("anew", 0.0, 5), ("anew", 0.5, 5)]


def test_another_table_is_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"other.csv is no table of a study \(it lacks network, target"):
        run_study(study_of(weights), tmp_path / "other.csv", SilentProgress())


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("across_layers", [False, True])
def test_choices_of_torch_pruning(problem: Problem, train: Split, importance: str, across_layers: bool) -> None:
    """At most the target, and every group lost something; local scope takes the same share of every group."""
    space = problem.space
    target = 0.4 * problem.cost_of(space.full())
    genome = torch_pruning_genome(problem, train, importance, across_layers, target)
    assert 0.5 * target < problem.cost_of(genome) <= target
    shares = space.widths(genome) / [group.size for group in space.groups]
    assert (shares < 1).sum() >= 2
    if not across_layers and importance != "bn_scale":  # there is no batch norm behind the hidden layer
        assert np.ptp(shares) <= 0.25


def test_the_network_of_torch_pruning_has_the_same_weights(problem: Problem) -> None:
    """Its pruner, let loose on a copy, leaves exactly the compacted network of the genome."""
    space, importance = problem.space, tp.importance.MagnitudeImportance(p=1)
    genome = kept_at(problem, problem.model, importance, False, 0.5)
    model = compact(problem.model, space, space.full())
    classifier = list(model.modules())[-1]
    tp.pruner.BasePruner(
        model, problem.calibration[:1], importance, pruning_ratio=0.5, ignored_layers=[classifier]
    ).step()
    ours = compact(problem.model, space, genome)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes
    with torch.no_grad():
        expected = model.eval()(problem.images[:8])
        assert torch.allclose(ours.eval()(problem.images[:8]), expected, atol=1e-5)


def test_even_widths(problem: Problem) -> None:
    """All groups keep the same share, as far as whole maps go."""
    space = problem.space
    genome = even_widths(problem, 0.3 * problem.cost_of(space.full()))
    shares = space.widths(genome) / [group.size for group in space.groups]
    assert np.ptp(shares) <= 0.25
    for group in space.groups:
        assert (np.diff(genome[group.genes].astype(int)) <= 0).all()


def test_the_summary_by_hand(tmp_path: Path) -> None:
    rows = [("a", seed, 0.5, mcr) for seed, mcr in enumerate((0.1, 0.2))] + [("b", 0, 0.4, 0.12)]
    table = pd.DataFrame(rows, columns=["method", "seed", "mcr_before", "mcr_test"]).assign(
        network="n", target=0.25, compensation="gram", macs_ratio=0.24, baseline_mcr_test=0.07, seconds=1.0
    )
    table["cross_entropy_test"] = [0.2, 0.3, math.nan]
    summary = study_summary(table)
    assert summary.method.tolist() == ["b", "a"]
    assert summary.mcr_test.tolist() == pytest.approx([0.12, 0.15])
    assert summary.spread.iloc[1] == pytest.approx(0.0707)
    assert summary.cross_entropy_test.tolist() == pytest.approx([math.nan, 0.25], nan_ok=True)
    plot_study(table, tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


def test_the_plot_has_the_means_with_compensation() -> None:
    rows = [("a", "gram", 0.1), ("a", "none", 0.9), ("b", "gram", 0.2), ("b", "none", 0.3), ("c", "none", 0.15)]
    cell = pd.DataFrame(rows, columns=["method", "compensation", "mcr_test"])
    assert worst_first(cell) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"methods": ["l1"]}, "methods: unknown method 'l1'; take some of"),
        ({"targets": [0.0001]}, "search.target_cost must be at least"),
        ({"networks": {"n": {"model": {"network": "resnet20"}}}}, "networks.n must have model.weights"),
        ({"networks": {"n": {"modle": {"network": "resnet20"}}}}, "unknown key 'modle' (did you mean 'model'?)"),
        ({"variants": {"mine": {"algoritm": "widths"}}}, "'search.algoritm' (did you mean 'search.algorithm'?)"),
        (
            {"variants": {"mine": {"cost": "params"}}},
            "variants.mine must not have cost, since all methods of a study are",
        ),
        ({"metods": []}, "unknown key 'metods' (did you mean 'methods'?)"),
        ({"seeds": "x"}, "seeds"),
    ],
)
def test_mistakes(weights: Path, tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    content = study_of(weights).model_dump(mode="json") | changes
    (tmp_path / "study.yaml").write_text(write_yaml(content))
    result = CliRunner().invoke(
        app, ["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "s.csv"), "--quiet"]
    )
    assert result.exit_code == 2, result.output
    assert complaint in result.output
    assert not (tmp_path / "s.csv").exists()


def test_the_shipped_study_loads() -> None:
    study = load_study(Path(__file__).parents[3] / "experiments" / "study_fashion.yaml")
    assert set(study.methods) <= {method.name for method in known_methods()}
    assert len(study.methods) == 19
    assert study.seeds == (0, 1, 2)
