"""Runs of other tasks than classification from a config, and from data without labels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import evoprune as ep
from evoprune.errors import ConfigError
from evoprune.pipeline.export_run import export_run
from evoprune.pipeline.run import inspect
from tests import tiny_runs
from tests.tasks.own_data import three_classes

BRIEF: dict[str, Any] = {
    **tiny_runs.BRIEF,
    "data.validation": 16,
    "data.calibration": 8,
    "retrain.distillation": 0.5,
}
SEGMENTATION: dict[str, Any] = {
    **BRIEF,
    "task": "segmentation",
    "task_options": {"ignore_index": 255},
    "data.dataset": "tests.tasks.own_data:masks",
    "model.network": "tests.tasks.own_data:segmenter",
}
OWN: dict[str, Any] = {
    **BRIEF,
    "task": "tests.tasks.own_task:Brightness",
    "data.dataset": "tests.tasks.own_data:brightness",
    "model.network": "tests.tasks.own_data:one_number",
}
TRUSTED = ("task", "data.dataset", "model.network")
TIMES = ["eval_seconds"]


@pytest.mark.parametrize("settings", [SEGMENTATION, OWN], ids=["segmentation", "own"])
def test_a_run_trains_searches_retrains_and_goes_on(settings: dict[str, Any], tmp_path: Path) -> None:
    straight = tiny_runs.run(tmp_path / "straight", settings | {"search.generations": 2})
    tiny_runs.run(tmp_path / "resumed", settings)
    trusted = {key: settings[key] for key in TRUSTED}
    resumed = ep.resume(tmp_path / "resumed", trusted | {"search.generations": 2})
    assert resumed.candidates.drop(columns=TIMES).equals(straight.candidates.drop(columns=TIMES))
    assert resumed.survivors["mcr_test"].tolist() == straight.survivors["mcr_test"].tolist()
    assert resumed.survivors["mcr_test"].between(0, 1).all()
    assert resumed.survivors["worst_class_recall"].isna().all()
    assert resumed.candidates["errors"].dtype == "float64"


def test_a_task_of_ones_own_in_a_run_folder_is_not_run_unasked(tmp_path: Path) -> None:
    tiny_runs.run(tmp_path / "run", OWN)
    rest = {key: OWN[key] for key in TRUSTED if key != "task"}
    with pytest.raises(ConfigError, match=r"task is tests\.tasks\.own_task:Brightness, which would run code"):
        ep.resume(tmp_path / "run", rest)


def test_data_sets_of_pairs_are_the_same_as_arrays(tmp_path: Path) -> None:
    arrays = tiny_runs.run(tmp_path / "arrays", SEGMENTATION)
    pairs = tiny_runs.run(tmp_path / "pairs", SEGMENTATION | {"data.dataset": "tests.tasks.own_data:data_sets"})
    assert pairs.candidates.drop(columns=TIMES).equals(arrays.candidates.drop(columns=TIMES))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model.network": "tests.tasks.own_data:three_classes"}, r"the network must give logits \(n, classes, h, w\)"),
        ({"task": "classification", "task_options": None}, r"train labels must be whole numbers \(n,\), not of shape"),
        ({"data.augment": ["flip"]}, r"data\.augment must be empty with the task segmentation, not \['flip'\]"),
        ({"task": "segmentatoin"}, r"task must be one of classification, .* \(did you mean 'segmentation'\?\)"),
        ({"task_options": {"ignore": 1}}, r"task_options: the task segmentation has no option 'ignore'"),
        ({"task_options": {"ignore_index": [1]}}, r"task_options"),
        ({"search.metric": "balanced"}, r"search\.metric must be mcr with the task Segmentation"),
        (
            {"data.dataset": "tests.tasks.own_data:images_alone"},
            r"model\.weights must name trained weights",
        ),
    ],
)
def test_mistakes_are_named_before_anything_is_written(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ep.UserError, match=message) as error:
        tiny_runs.run(tmp_path / "run", SEGMENTATION | changed)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_images_alone_with_trained_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    save_file(three_classes().state_dict(), weights)
    settings = BRIEF | {
        "data.dataset": "tests.tasks.own_data:images_alone",
        "model.network": "tests.tasks.own_data:three_classes",
        "model.weights": str(weights),
    }
    run = tiny_runs.run(tmp_path / "run", settings)
    assert "have no labels: the unpruned network's own answers stand in" in caplog.text
    assert (run.survivors["baseline_mcr_test"] == 0).all()
    assert run.candidates["errors"].dtype == "int64"


def test_the_search_space_of_a_segmenter_is_shown() -> None:
    report = inspect(tiny_runs.config(SEGMENTATION))
    assert report is not None


def test_networks_of_other_tasks_are_exported_with_their_errors(tmp_path: Path) -> None:
    """A layer string with one output for regression: the file has the survivor's own errors."""
    settings = BRIEF | {"task": "regression", "data.dataset": "tests.tasks.own_data:brightness"}
    run = tiny_runs.run(tmp_path / "run", settings | {"model.network": "4C3-MP2-1"})
    rows = export_run(run.root, ["torch"], trusted={"data.dataset": "tests.tasks.own_data:brightness"})
    [row] = [row for row in rows if row.format == "torch"]
    [survivor] = tiny_runs.rows(run.survivors)
    assert row.mcr_validation == pytest.approx(survivor.mcr_retrained, abs=1e-5)
    assert row.mcr_test == pytest.approx(survivor.mcr_test, abs=1e-5)
