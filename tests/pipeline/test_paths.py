"""Paths in another encoding than UTF-8: each works, or is refused in one line before the first stage."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import evoprune as ep
from evoprune.errors import ConfigError, DataError, NetworkError, RunFolderError, WorkerError
from evoprune.networks.weight_files import read_weights
from evoprune.pipeline.export_run import export_run
from evoprune.progress import SilentProgress
from evoprune.record.watch import watch
from evoprune.workers.local_ray import local_ray
from tests import tiny_runs

LATIN = os.fsdecode(b"caf\xe9")
SHOWN = r"caf\\udce9"
TRUSTED: dict[str, object] = {"data.dataset": tiny_runs.BRIEF["data.dataset"]}


def evolve(run: ep.Run, out: Path) -> None:
    network, images = nn.Conv2d(1, 2, 3), torch.rand(4, 1, 8, 8)
    ep.evolve(network, images[:1], (images, torch.arange(4) % 2), images, out=out)


@pytest.mark.parametrize(
    "use",
    [
        lambda run, path: tiny_runs.run(path, tiny_runs.BRIEF),
        lambda run, path: ep.load_run(path),
        lambda run, path: ep.resume(path, TRUSTED),
        lambda run, path: ep.resume(run.root, TRUSTED, generation=0, out=path),
        lambda run, path: export_run(run.root, out=path),
        lambda run, path: watch(path, SilentProgress(), lambda: 1.0),
        evolve,
    ],
)
def test_run_folders_are_refused(tiny_run: ep.Run, tmp_path: Path, use: Callable[[ep.Run, Path], object]) -> None:
    with pytest.raises(RunFolderError, match=rf"{SHOWN} must be a path in UTF-8; rename it, or choose"):
        use(tiny_run, tmp_path / LATIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["data.root", "model.weights"])
def test_values_of_a_config_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--set: {key} must be in UTF-8, not .*{SHOWN}; rename it$"):
        tiny_runs.config({key: str(tmp_path / LATIN)})


def test_a_config_file_works(tmp_path: Path) -> None:
    path = tiny_runs.config_file(tmp_path, tiny_runs.BRIEF).rename(tmp_path / f"{LATIN}.yaml")
    assert len(ep.run(path, out=tmp_path / "run").survivors) == 1


def test_weights_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "w.pt")
    (tmp_path / "w.pt").rename(tmp_path / f"{LATIN}.pt")
    with pytest.raises(NetworkError, match=rf"{SHOWN}.pt must be a path in UTF-8; rename the file or its folder"):
        read_weights(tmp_path / f"{LATIN}.pt")


def test_image_files_work_and_class_folders_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name, count in (("a", 30), ("b", 30)):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(rng.integers(0, 256, (14, 14), dtype=np.uint8))
                image.save(folder / f"{number}.png")
            (folder / "0.png").rename(folder / f"{LATIN}.png")
    settings = {"data.dataset": "imagefolder", "data.root": str(tmp_path), "model.network": "4C3-MP7-2"}
    settings = tiny_runs.BRIEF | settings | {"data.validation": 20, "search.tolerance": 1.0}
    assert len(tiny_runs.run(tmp_path / "run", settings).candidates) == 8
    for part in ("train", "test"):
        (tmp_path / part / "a").rename(tmp_path / part / LATIN)
    with pytest.raises(DataError, match=rf"the class folder .*{SHOWN} must have a name in UTF-8; rename it"):
        tiny_runs.run(tmp_path / "other", settings)


def test_a_run_works_inside_of_such_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / LATIN
    folder.mkdir()
    config = tiny_runs.config_file(tmp_path, tiny_runs.BRIEF)
    shutil.copy(Path(__file__).parents[1] / "few_images.py", folder / "few.py")
    process = subprocess.run(
        [sys.executable, "-m", "evoprune", "run", str(config), "--out", "run", "--set", "data.dataset=few:few"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert (folder / "run" / "survivors.parquet").is_file()


def test_ray_is_refused_inside_of_such_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LATIN).mkdir()
    monkeypatch.chdir(tmp_path / LATIN)
    with pytest.raises(WorkerError, match=rf"{SHOWN}; start from another folder, or set it to serial"), local_ray(None):
        pass
