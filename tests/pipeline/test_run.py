"""A whole run on real digits: what it leaves behind, and that its numbers agree with its networks."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.errors import RunFolderError
from evoprune.networks.weights import load_weights
from evoprune.networks.zoo import build_network
from evoprune.pipeline import run as pipeline
from evoprune.pipeline import stages
from evoprune.progress import SilentProgress
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.tables import CANDIDATE_DTYPES, SURVIVOR_DTYPES
from evoprune.surgery.recalibration import recalibrate
from evoprune.training.evaluation import count_errors
from tests import tiny_runs
from tests.tiny_runs import WHOLE_MACS

CPU = torch.device("cpu")


def space_of(run: ep.Run) -> ep.SearchSpace:
    return ep.SearchSpace.from_dict(files.read_json(RunFolder(run.root).space))


def baseline_of(run: ep.Run) -> torch.nn.Module:
    model = build_network(tiny_runs.NETWORK, (1, 28, 28), 10, torch.Generator())
    load_weights(model, files.read_tensors(RunFolder(run.root).baseline)[0], "baseline")
    return model.eval()


# --- MACs by hand


def test_the_macs_of_the_quickstart_network_by_hand() -> None:
    """16C5-MP2-32C5-MP2-64FC-10 on 28x28 grey images, padded so that convolutions keep the size.

    16C5: 16 maps x 1 input x 25 taps x 784 pixels     =   313 600
    32C5: 32 maps x 16 inputs x 25 taps x 196 pixels   = 2 508 800
    64FC: 64 units x (32 maps x 49 pixels)             =   100 352
    10:   10 units x 64                                =       640
    Half of everything: 8 x 25 x 784 = 156 800, 16 x 8 x 25 x 196 = 627 200, 32 x (16 x 49) = 25 088, 10 x 32 = 320.
    """
    model = build_network("16C5-MP2-32C5-MP2-64FC-10", (1, 28, 28), 10, torch.Generator())
    space = ep.search_space(model, torch.randn(1, 1, 28, 28))
    genome = space.random(np.random.default_rng(0), keep=0.5)
    assert ep.cost(space, space.full()).macs == 313_600 + 2_508_800 + 100_352 + 640 == 2_923_392
    assert space.widths(genome).tolist() == [8, 16, 32]
    assert ep.cost(space, genome).macs == 156_800 + 627_200 + 25_088 + 320
    with FlopCounterMode(display=False) as counter:
        ep.compact(model, space, genome).eval()(torch.randn(1, 1, 28, 28))
    assert counter.get_total_flops() == 2 * ep.cost(space, genome).macs


# --- what is left behind


def test_the_folder_holds_the_listed_files_only(tiny_run: ep.Run) -> None:
    found = {path.relative_to(tiny_run.root).as_posix() for path in tiny_run.root.rglob("*") if path.is_file()}
    assert found == {
        "config.yaml",
        "environment.json",
        "identity.json",
        "lock",
        "baseline.safetensors",
        "space.json",
        "execution.json",
        "survivors.parquet",
        "layers.parquet",
        *(f"candidates/gen-000{generation}.parquet" for generation in range(4)),
        *(f"checkpoints/gen-000{generation}.json" for generation in range(4)),
        *tiny_run.survivors["weights"],
    }
    assert tiny_run.config == tiny_runs.config()


def test_the_candidates_table(tiny_run: ep.Run) -> None:
    candidates, space = tiny_run.candidates, space_of(tiny_run)
    assert list(candidates) == list(CANDIDATE_DTYPES)
    assert candidates["generation"].tolist() == [generation for generation in range(4) for _ in range(6)]
    assert (candidates["images"] == 200).all()
    assert (candidates["exact"] == (candidates["images_seen"] == 200)).all()
    assert (candidates["mcr"].isna() == ~candidates["exact"]).all()
    exact = candidates[candidates["exact"]]
    assert exact["mcr"].tolist() == (exact["errors"] / 200).tolist()
    whole = candidates.iloc[0]
    allowed = whole["errors"] + 20  # a tolerance of 0.1
    assert (candidates["feasible"] == (candidates["errors"] <= allowed)).all()
    for row in tiny_runs.rows(candidates):
        genome = np.frombuffer(row.genome, np.uint8)
        assert space.key(genome) == row.key
        price = ep.cost(space, genome)
        assert (row.macs, row.params, row.bytes) == (price.macs, price.params, price.bytes)
    assert (candidates["cached"] == candidates["key"].duplicated()).all()
    assert (candidates["eval_seconds"] > 0).tolist() == (~candidates["cached"]).tolist()


def test_candidate_zero_is_the_whole_network(tiny_run: ep.Run) -> None:
    """With batch norm recalibrated as every candidate's."""
    whole, space, data = tiny_run.candidates.iloc[0], space_of(tiny_run), tiny_runs.data(tiny_run)
    assert tiny_run.genome(whole["key"]).tolist() == space.full().tolist()
    assert whole["macs"] == WHOLE_MACS
    model = baseline_of(tiny_run)
    assert whole["params"] == sum(parameter.numel() for parameter in model.parameters())
    recalibrated = copy.deepcopy(model)
    recalibrate(recalibrated, data.calibration.tensors()[0])
    assert whole["errors"] == count_errors(recalibrated, data.validation, CPU)


def test_the_survivors_table(tiny_run: ep.Run) -> None:
    survivors, candidates, space = tiny_run.survivors, tiny_run.candidates, space_of(tiny_run)
    assert list(survivors) == list(SURVIVOR_DTYPES)
    assert len(survivors) == 2
    assert survivors["key"].is_unique
    whole = ep.cost(space, space.full())
    data, model = tiny_runs.data(tiny_run), baseline_of(tiny_run)
    by_key = candidates.drop_duplicates("key").set_index("key")
    for row in tiny_runs.rows(survivors):
        candidate = by_key.loc[row.key]
        assert candidate["feasible"]
        assert row.mcr_search == candidate["mcr"]
        assert (row.macs, row.params, row.bytes) == tuple(candidate[["macs", "params", "bytes"]])
        assert row.macs_ratio == row.macs / whole.macs < 1
        assert (row.params_ratio, row.bytes_ratio) == (row.params / whole.params, row.bytes / whole.bytes)
        assert row.baseline_mcr_test == count_errors(model, data.test, CPU) / 1000
        assert row.baseline_mcr_validation == count_errors(model, data.validation, CPU) / 200
        assert row.latency_ms > 0
        assert row.baseline_latency_ms > 0
        assert row.weights == f"survivors/{row.key}.safetensors"
    assert survivors["macs"].tolist() == sorted(survivors["macs"])
    assert survivors["macs"].iloc[0] == candidates.loc[candidates["feasible"], "macs"].min()


def test_a_survivor_is_the_network_of_the_table(tiny_run: ep.Run) -> None:
    data = tiny_runs.data(tiny_run)
    for row in tiny_runs.rows(tiny_run.survivors):
        model = tiny_run.load_survivor(row.key)
        assert not model.training
        assert count_errors(model, data.test, CPU) / 1000 == row.mcr_test
        assert count_errors(model, data.validation, CPU) / 200 == row.mcr_retrained
        assert sum(parameter.numel() for parameter in model.parameters()) == row.params
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 1, 28, 28))
        assert counter.get_total_flops() == 2 * row.macs


def test_the_generations_table(tiny_run: ep.Run) -> None:
    generations, candidates = tiny_run.generations, tiny_run.candidates
    assert (generations["evaluated"] + generations["cached"]).tolist() == [6] * 4
    assert generations["evaluated"].sum() == candidates["key"].nunique()


def test_all_runs_below_a_folder(tiny_run: ep.Run) -> None:
    survivors = ep.load_runs(tiny_run.root.parent)
    assert survivors["key"].tolist() == tiny_run.survivors["key"].tolist()
    assert survivors["search.population"].tolist() == [6, 6]


# --- ways to run


def test_a_config_file_overrides_and_the_usual_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overrides hold, too: without retraining, survivors have the MCR of the search."""
    monkeypatch.chdir(tmp_path)
    overrides = {"search.generations": 1, "retrain.epochs": 0, "retrain.survivors": 3, "search.cost": "params"}
    overrides["retrain.compensation"] = "search"
    run = ep.run(tiny_runs.config_file(tmp_path), overrides)
    assert run.root == Path("results/tiny")
    assert run.config == tiny_runs.config(overrides)
    assert run.candidates["generation"].unique().tolist() == [0, 1]
    assert run.survivors["mcr_retrained"].tolist() == run.survivors["mcr_search"].tolist()
    assert run.survivors["params"].tolist() == sorted(run.survivors["params"])
    whole = run.candidates["key"].iloc[0]
    assert whole not in run.survivors["key"].tolist()


def test_given_weights_are_not_trained_again(tiny_run: ep.Run, tmp_path: Path) -> None:
    """With the other run's baseline, it is the other run."""
    watching = Stages()
    weights = str(RunFolder(tiny_run.root).baseline)
    run = tiny_runs.run(tmp_path / "run", {"model.weights": weights}, watching)
    tiny_runs.check_equal(run, tiny_run)
    assert "baseline" not in watching.names


def test_without_compensation_scores_are_others(tiny_run: ep.Run, tmp_path: Path) -> None:
    weights = str(RunFolder(tiny_run.root).baseline)
    run = tiny_runs.run(
        tmp_path / "run",
        {
            "model.weights": weights,
            "search.compensation": "none",
            "search.criterion": "elimination",  # as `auto` is with compensation
            "search.generations": 1,
        },
    )
    first, compensated = (frame[frame["generation"] == 0] for frame in (run.candidates, tiny_run.candidates))
    assert first["key"].tolist() == compensated["key"].tolist()
    assert first["errors"].iloc[0] == compensated["errors"].iloc[0]
    assert first["errors"].tolist() != compensated["errors"].tolist()


class Stages(SilentProgress):
    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str, detail: str = "") -> None:
        self.names.append(name)


def test_a_run_that_is_there_is_refused_or_replaced(tiny_run: ep.Run, tmp_path: Path) -> None:
    out, weights = tmp_path / "run", str(RunFolder(tiny_run.root).baseline)
    quick = {"model.weights": weights, "search.generations": 1, "retrain.epochs": 0}
    tiny_runs.run(out, quick | {"search.population": 8})
    (out / "notes.txt").write_text("my own")
    before = tiny_runs.state_of(out)
    with pytest.raises(RunFolderError) as error:
        tiny_runs.run(out, quick)
    assert str(error.value) == (
        f"{out} holds a run; go on with it by `evoprune resume {out}`, or replace it by --overwrite"
    )
    assert tiny_runs.state_of(out) == before
    watching = Stages()
    replaced = tiny_runs.run(out, quick, watching, overwrite=True)
    assert watching.names == ["data", "space", "statistics", "ranking", "search", "test", "done"]
    assert len(replaced.candidates) == 12
    assert (out / "notes.txt").read_text() == "my own"
    assert len(list((out / "survivors").iterdir())) == len(replaced.survivors)


def test_a_run_may_end_without_survivors(tiny_run: ep.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the table is empty, and the command says what to do about it."""
    monkeypatch.setattr(stages, "choose_survivors", lambda front, count, cost: [])
    weights = str(RunFolder(tiny_run.root).baseline)
    config = tiny_runs.config_file(tmp_path, {"model.weights": weights, "search.generations": 1})
    result = CliRunner().invoke(app, ["run", str(config), "--out", str(tmp_path / "run"), "--quiet"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("no candidate stayed within search.tolerance; raise it or search for longer\n")
    survivors = ep.load_run(tmp_path / "run").survivors
    assert (len(survivors), list(survivors)) == (0, list(SURVIVOR_DTYPES))


def test_ray_gives_the_same_tables(tiny_run: ep.Run, tmp_path: Path) -> None:
    """Baseline, search and retraining anew, on as many actors as there are cores, two at most."""
    count = min(2, os.cpu_count() or 1)
    run = tiny_runs.run(tmp_path / "run", {"workers.backend": "ray", "workers.count": count})
    tiny_runs.check_equal(run, tiny_run)


def test_inspect_writes_and_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = pipeline.inspect(tiny_runs.config())
    assert [(layer.name, layer.maps, layer.genes) for layer in report.layers] == [
        ("conv1", 4, 4),
        ("conv2", 8, 8),
        ("fc1", 16, 16),
        ("out", 10, 0),
    ]
    assert (report.macs, report.genes) == (WHOLE_MACS, 28)
    assert list(tmp_path.iterdir()) == []
