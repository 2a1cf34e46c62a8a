"""Whole runs on real digits, as small as they can be: a few seconds each."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import evoprune as ep
from evoprune.config.loading import config_from_dict, dump_config
from evoprune.config.schema import Config
from evoprune.data.load import Data, load_data
from evoprune.progress import Progress
from evoprune.record import files
from evoprune.record.folder import RunFolder

NETWORK = "4C3-MP2-8C3-MP2-16FC-10"

# MACs by hand. Convolutions: maps x inputs x 9 taps x pixels; the image has 28 x 28, then 14 x 14 pixels.
#   4 x 1 x 9 x 784 + 8 x 4 x 9 x 196 + 16 x (8 x 7 x 7) + 10 x 16
WHOLE_MACS = 28_224 + 56_448 + 6_272 + 160

SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "device": "cpu",
    "data": {"validation": 200, "calibration": 64},
    "model": {"network": NETWORK},
    "train": {"epochs": 1},
    "search": {"population": 6, "generations": 3, "tolerance": 0.1},
    "workers": {"backend": "serial"},
    "retrain": {"survivors": 2, "epochs": 1},
    "record": {"report": False},
}

BRIEF: dict[str, Any] = {
    "data.dataset": "tests.few_images:few",
    "data.validation": 50,
    "data.calibration": 16,
    "model.network": "4C3-MP7-10",
    "search.generations": 1,
    "search.population": 4,
    "search.tolerance": 0.5,
    "retrain.survivors": 1,
    "retrain.compensation": "search",
}
"""A run that takes a quarter of a second."""


def config(overrides: Mapping[str, object] | None = None) -> Config:
    return config_from_dict(SETTINGS, overrides)


def config_file(folder: Path, overrides: Mapping[str, object] | None = None) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(dump_config(config(overrides)))
    return path


def rows(frame: pd.DataFrame) -> list[Any]:
    """A frame's rows, whose columns are attributes."""
    return list(frame.itertuples())


def data(run: ep.Run) -> Data:
    return load_data(run.config.data, run.config.seed)


def run(
    out: Path,
    overrides: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> ep.Run:
    return ep.run(config(overrides), out=out, overwrite=overwrite, progress=progress)


def evoprune(*arguments: object) -> subprocess.Popen[str]:
    """A real process of the `evoprune` command, on one thread and with brief measurements as the tests are."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.brief_measurements", *(str(argument) for argument in arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_equal(one: ep.Run, other: ep.Run) -> None:
    """Same candidates, survivors and networks, times aside; bit for bit."""
    times = ["eval_seconds", "latency_ms", "baseline_latency_ms"]
    for frame, same in ((one.candidates, other.candidates), (one.survivors, other.survivors)):
        pd.testing.assert_frame_equal(
            frame.drop(columns=times, errors="ignore"), same.drop(columns=times, errors="ignore"), check_exact=True
        )
    folders = RunFolder(one.root), RunFolder(other.root)
    paths = [(folder.baseline, *sorted((folder.root / "survivors").iterdir())) for folder in folders]
    assert [path.name for path in paths[0]] == [path.name for path in paths[1]]
    for pair in zip(*paths, strict=True):
        (tensors, metadata), (other_tensors, other_metadata) = (files.read_tensors(path) for path in pair)
        assert metadata == other_metadata
        assert tensors.keys() == other_tensors.keys()
        assert all(torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder: when it was written, and what is in it."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
