"""The JSON files of a run are read as what they describe, and anything else is refused with the place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evoprune as ep
from evoprune.record import files
from evoprune.record.costs import whole_cost
from evoprune.record.file_errors import DamagedFileError
from evoprune.record.folder import RunFolder
from evoprune.record.json_files import (
    read_environment,
    read_execution,
    read_identity,
    read_latency_table,
    read_space,
)
from evoprune.scoring.execution import Execution
from tests import tiny_runs
from tests.record.test_checkpoint import Change, drop, put


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that predicts latency and searches over kernels and strides."""
    settings = tiny_runs.BRIEF | {
        "model.network": "4C3-4C3-MP7-10",
        "search.cost": "latency_ms",
        "space.kernels": True,
        "space.strides": True,
        "retrain.epochs": 0,
    }
    return tiny_runs.run(tmp_path_factory.mktemp("timed") / "run", settings).root


@pytest.fixture
def folder(timed: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(timed, tmp_path / "run")))


def test_files_of_a_run_are_read(folder: RunFolder) -> None:
    space = read_space(folder)
    assert space.fingerprint == ep.load_run(folder.root).space.fingerprint
    assert read_execution(folder) == Execution(**files.read_json(folder.execution))
    table = read_latency_table(folder, space)
    assert table is not None
    assert json.loads(json.dumps(table.to_dict())) == files.read_json(folder.latency)["table"]
    assert whole_cost(folder, folder, space, "latency_ms") > 0
    assert read_environment(folder)["python"]
    assert len(read_identity(folder)) > 4


def test_latencies_of_another_space_are_ignored(folder: RunFolder, tiny_run: ep.Run) -> None:
    assert read_latency_table(folder, tiny_run.space) is None
    assert read_latency_table(RunFolder(tiny_run.root), tiny_run.space) is None


BATCHES = [0, -1, 10**12, "16", 16.5, None, True, [16]]
Read = Callable[[RunFolder], object]
FORGED: dict[str, tuple[str, Change, str]] = {
    **{f"a batch size of {size}": ("execution", put("batch_size", value=size), "batch_size: ") for size in BATCHES},
    "a batch size less": ("execution", drop("calibration_batch_size"), "calibration_batch_size: Field required"),
    "a key more": ("execution", put("more", value=1), "more: Extra inputs are not permitted"),
    "a number for a flag": ("execution", put("fused", value=1), "fused: Input should be a valid boolean"),
    "no table": ("latency", drop("table"), "table: Field required"),
    "a time as a text": (
        "latency",
        put("table", "layers", 0, "ms", 0, 0, value="1"),
        "layers.0.ms.0.0: Input should be",
    ),
    "a time below zero": (
        "latency",
        put("table", "layers", 0, "ms", 0, 0, value=-1.0),
        "layers.0.ms.0.0: Input should",
    ),
    "a row less": ("latency", drop("table", "layers", 0, "ms", 0), "ms must have a row for each of outputs"),
    "no curve": ("latency", put("table", "rest", value=[]), "table.rest: List should have at least 1 item"),
    "times of no layer": ("latency", put("table", "layers", 0, "weight", value="x"), "it has times of x, which is no"),
    "a gene out of range": ("space", put("axes", 0, "gene", 0, value=10**6), "an axis has a gene that is not one of"),
    "a gene below -1": ("space", put("axes", 0, "gene", 0, value=-2), "axes.0.gene.0: Input should be greater"),
    "a group elsewhere": ("space", put("groups", 0, "start", value=5), "group conv1 starts at gene 5, not 0"),
    "a huge shape": (
        "space",
        put("layers", 0, "shape", value=[2**20, 2**20]),
        "a tensor has at most 268435456 elements",
    ),
    "an axis of no tensor": ("space", put("axes", 0, "tensor", value="x"), "its parts do not fit each other"),
    "a layer less": ("space", drop("layers", 0), "is damaged"),
    "a tensor less": ("space", drop("tensors", 0), "is damaged"),
    "kernels of no layer": ("space", put("kernels", 0, "weight", value="x"), "the genes of x are of another shape"),
    "kernels elsewhere": ("space", put("kernels", 0, "start", value=0), "its parts do not fit each other"),
    "a stride that is none": (
        "space",
        put("strides", 0, "table", 0, value=[0, 0]),
        "strides.0.table.0.1: Input should",
    ),
    "a shape that is text": ("space", put("layers", 0, "shape", value="big"), "layers.0.shape: Input should be"),
    "a mapping in it": ("environment", put("cpu", value={"a": 1}), "cpu.str: Input should be a valid string"),
    "a hash that is none": ("identity", put("train images", value="zz"), "train images: String should match pattern"),
}
READERS: dict[str, Read] = {
    "execution": read_execution,
    "latency": lambda folder: read_latency_table(folder, read_space(folder)),
    "space": read_space,
    "environment": read_environment,
    "identity": read_identity,
}


@pytest.mark.parametrize("case", FORGED)
def test_files_that_no_run_wrote_are_named(case: str, folder: RunFolder) -> None:
    name, change, reason = FORGED[case]
    path = getattr(folder, name)
    content = files.read_json(path)
    change(content)
    files.write_json(path, content)
    with pytest.raises(DamagedFileError) as error:
        READERS[name](folder)
    assert str(error.value).startswith(f"{path} is damaged: ")
    assert reason in str(error.value)
    assert str(error.value).endswith("put it back from a copy, or remove it")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [None, [], [1], "x", 5, True])
def test_no_mapping_at_all(name: str, content: Any, folder: RunFolder) -> None:
    path = getattr(folder, name)
    files.write_json(path, content)
    with pytest.raises(DamagedFileError, match=rf"{name}\.json is damaged: its content: Input should be"):
        READERS[name](folder)
