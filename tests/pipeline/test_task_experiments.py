"""The programs in experiments/ for other tasks than classification, on fewer images and generations."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import evoprune as ep

FOLDER = Path(__file__).parents[2] / "experiments"
FEW = {"images": 240, "epochs": 1, "generations": 1}


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """A program as a module, which other modules can import from."""
    name = request.param
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.mark.parametrize("program", ["segmentation"], indirect=True)
def test_segmentation(program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = program.main(tmp_path / "run", **FEW)
    assert run.config.task == "segmentation"
    [survivor] = run.survivors.to_dict("records")
    assert survivor["macs_ratio"] < 1
    pixels, masks = (part[:40] for part in program.digits_in_clutter(240))  # the validation images
    answers = run.load_survivor(survivor["key"])(pixels).argmax(1)
    wrong = (answers != masks).flatten(1).double().mean(1)
    assert float(wrong.mean()) == pytest.approx(survivor["mcr_retrained"], abs=1e-6)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "MACs",
        "wrong pixels",
        "IoU of digits",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("program", ["segmentation"], indirect=True)
def test_segmentation_with_a_network_of_a_library(program: ModuleType, tmp_path: Path) -> None:
    run = program.main(tmp_path / "run", "FPN", **FEW)
    assert run.survivors["macs_ratio"].iloc[0] < 1


@pytest.mark.parametrize("program", ["unlabelled"], indirect=True)
def test_unlabelled(program: ModuleType, tmp_path: Path) -> None:
    runs: dict[str, ep.Run] = program.main(tmp_path, **FEW)
    tasks = {name: run.config.task for name, run in runs.items()}
    assert tasks == {"classifier": "classification", "like_teacher": "like_teacher", "boxes": "unlabelled:Boxes"}
    for name, run in runs.items():
        whole = run.candidates[run.candidates["macs"] == run.candidates["macs"].max()].iloc[0]
        assert whole["mcr"] == 0 or name == "classifier"  # the outputs of the unpruned network as it is scored
        assert len(run.survivors) == 1
    heads = runs["boxes"].load_survivor(runs["boxes"].survivors["key"].iloc[0])(torch.zeros(2, 1, 28, 28))
    assert {name: tuple(head.shape) for name, head in heads.items()} == {"object": (2, 1, 7, 7), "box": (2, 2, 7, 7)}
