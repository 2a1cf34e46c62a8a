"""Runs that search maps, kernels and strides at once, and mistakes in what they are asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.config.loading import config_from_dict
from evoprune.progress import SilentProgress
from evoprune.record import files

CONFIG: dict[str, Any] = {
    "name": "masked",
    "data": {"validation": 200, "calibration": 64},
    "model": {"network": "6C3-MP4-8C3-10"},
    "train": {"epochs": 1},
    "space": {"kernels": True, "strides": True, "kernel_block": 2},
    "search": {"population": 6, "generations": 2, "tolerance": 0.3},
    "workers": {"backend": "serial"},
    "retrain": {"survivors": 2, "epochs": 2},
    "record": {"report": False},
}


class Stopping(SilentProgress):
    """Interrupts the run where it is told to: after a generation, or an epoch of a survivor's retraining."""

    def __init__(self, where: str) -> None:
        self.where = where

    def generation(self, summary: Any) -> None:
        if self.where == f"generation {summary.generation}":
            raise KeyboardInterrupt

    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        if what != "baseline" and self.where == f"epoch {epoch}":
            raise KeyboardInterrupt


def untimed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns=[name for name in map(str, frame.columns) if "latency" in name or "seconds" in name])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return ep.run(config_from_dict(CONFIG), out=tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.parametrize("where", ["generation 1", "epoch 1"])
def test_a_resumed_run_equals_an_uninterrupted_one(whole: Any, tmp_path: Path, where: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        ep.run(config_from_dict(CONFIG), out=tmp_path / "run", progress=Stopping(where))
    resumed = ep.resume(tmp_path / "run")
    for table in ("candidates", "survivors"):
        pd.testing.assert_frame_equal(untimed(getattr(resumed, table)), untimed(getattr(whole, table)))
    assert len(whole.survivors) == 2
    for weights in whole.survivors["weights"]:
        (one, described), (other, as_well) = (files.read_tensors(run.root / weights) for run in (resumed, whole))
        assert described == as_well
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_survivor_is_loaded_dense_and_stored_as_small_as_it_costs(whole: Any) -> None:
    """Masked weights are zero after retraining, and the state dict is dense; the file's header takes up to 4 KiB."""
    space = ep.SearchSpace.from_dict(files.read_json(whole.root / "space.json"))
    losing = 0
    for row in whole.survivors.to_dict("records"):
        genome = whole.genome(row["key"])
        model = whole.load_survivor(row["key"])
        dense = ep.compact(model_of(), space, genome).state_dict()
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in dense.items()}
        price = ep.cost(space, genome)
        assert (row["macs"], row["params"], row["bytes"]) == (price.macs, price.params, price.bytes)
        vectors = sum(tensor.numel() for tensor in model.parameters() if tensor.ndim == 1)
        left = vectors + sum(int(tensor.count_nonzero()) for tensor in model.parameters() if tensor.ndim > 1)
        assert left == price.params
        assert price.bytes <= (whole.root / row["weights"]).stat().st_size <= 1.02 * price.bytes + 4096
        losing += len(space.check(genome).kernels)
    assert losing > 0


def model_of() -> torch.nn.Module:
    from evoprune.networks.zoo import build_network

    return build_network(CONFIG["model"]["network"], (1, 28, 28), 10, torch.Generator().manual_seed(0))


MISTAKES = {
    "a start not below its stride": (
        ["space.strides=true", "space.strides_allowed=[[0, 3], [3, 3]]"],
        "space must have strides_allowed with 0 <= start < stride, not [3, 3]",
    ),
    "a negative start": (
        ["space.strides=true", "space.strides_allowed=[[-1, 3]]"],
        "space must have strides_allowed with 0 <= start < stride, not [-1, 3]",
    ),
    "no pairs": (
        ["space.strides=true", "space.strides_allowed=[3]"],
        "space.strides_allowed must be a list of [start, stride] pairs, or null, not [3]",
    ),
    "a stride larger than the kernel": (
        ["space.strides=true", "space.strides_allowed=[[0, 10]]"],
        "space.strides_allowed: stride 10 is larger than a kernel of 3x3 = 9 taps; take 9 at most",
    ),
    "a block larger than the layer": (
        ["space.kernels=true", "space.kernel_block=9"],
        "space.kernel_block must be at most 8, the output maps of",
    ),
    "a block of nothing": (["space.kernels=true", "space.kernel_block=0"], "space.kernel_block must be"),
    "sharing of another kind": (
        ["space.strides=true", "space.stride_sharing=map"],
        "space.stride_sharing must be",
    ),
    "a rate of more than 1": (["search.stride_mutation_rate=5"], "search.stride_mutation_rate must be"),
}


@pytest.mark.parametrize(("settings", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_named_in_one_line(settings: list[str], message: str, tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("name: a\nmodel: {network: 6C3-MP4-8C3-10}\nworkers: {backend: serial}\n")
    arguments = [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(app, ["run", str(config), *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    said = [line for line in result.stderr.splitlines() if "must" in line or "larger" in line]
    assert len(said) == 1
    assert message in said[0]
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_kernels_or_strides_alone_are_enough_to_search() -> None:
    for kind in ("kernels", "strides"):
        assert config_from_dict({"name": "a", "space": {"feature_maps": False, kind: True}}).space.feature_maps is False


def test_genes_of_three_kinds_are_drawn(whole: Any) -> None:
    genomes = np.stack([whole.genome(key) for key in whole.candidates["key"].unique()])
    assert (genomes.min(0) != genomes.max(0)).mean() > 0.6
