"""Prune, train, repeat: rounds of one run, each from the network that the one before handed on."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.config.choices import RoundSection
from evoprune.config.loading import config_from_dict, dump_config, load_config, round_configs
from evoprune.config.schema import Config, SearchConfig, WorkersConfig
from evoprune.data.load import load_data
from evoprune.errors import ConfigError, RunFolderError
from evoprune.networks.weights import load_weights
from evoprune.networks.zoo import build_network
from evoprune.pipeline import stages
from evoprune.pipeline.round_context import RoundContext
from evoprune.progress import SilentProgress
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.housekeeping import clear
from evoprune.scoring.candidate import Candidate
from evoprune.scoring.measures import allowed_errors
from evoprune.scoring.problem import errors_as_scored, make_problem
from evoprune.scoring.scorer import Scorer
from evoprune.space.search_space import SearchSpace
from evoprune.training.evaluation import count_errors
from evoprune.workers.retraining import Retraining

CPU = torch.device("cpu")
WHOLE_MACS = 28_224 + 56_448 + 6_272 + 160  # 4x1x9x784, 8x4x9x196, 16x(8x49), 10x16
NETWORK = "4C3-MP2-8C3-MP2-16FC-10"
EXPERIMENT: dict[str, Any] = {
    "name": "rounds",
    "device": "cpu",
    "data": {"dataset": "mnist5k", "validation": 200, "calibration": 64},
    "model": {"network": NETWORK},
    "train": {"epochs": 1},
    "workers": {"backend": "serial"},
    "retrain": {"epochs": 1, "survivors": 2},
    "record": {"report": False},
    "search": {
        "population": 6,
        "generations": 2,
        "tolerance": 0.3,
        "rounds": [
            {"space": {"feature_maps": True}},
            {"space": {"feature_maps": False, "kernels": True}, "search": {"generations": 1, "tolerance": 0.4}},
        ],
    },
}


def experiment(rounds: object = None, **search: object) -> dict[str, Any]:
    """The experiment with other rounds, or other keys of search."""
    rounds = EXPERIMENT["search"]["rounds"] if rounds is None else rounds
    return EXPERIMENT | {"search": EXPERIMENT["search"] | search | {"rounds": rounds}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    """Never interrupted."""
    return ep.run(config_from_dict(EXPERIMENT), out=tmp_path_factory.mktemp("rounds") / "run")


def results(root: Path) -> dict[str, Any]:
    """Everything in a run folder that must not depend on when and where it was made, by path."""
    found: dict[str, Any] = {}
    left_out = ("environment.json", "execution.json", "lock")
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.name not in left_out):
        name = path.relative_to(root).as_posix()
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            timed = [column for column in frame if str(column).endswith(("_seconds", "_ms"))]
            found[name] = frame.drop(columns=timed).to_csv()
        elif path.suffix == ".safetensors":
            tensors, metadata = files.read_tensors(path)
            found[name] = metadata, {key: (value.dtype, value.tolist()) for key, value in tensors.items()}
        else:
            found[name] = path.read_bytes()
    return found


# --- the config


def test_a_round_overrides_keys_of_the_top_level() -> None:
    first, last = round_configs(config_from_dict(EXPERIMENT))
    assert (first.space.feature_maps, first.space.kernels) == (True, False)
    assert (first.search.generations, first.search.tolerance, first.search.population) == (2, 0.3, 6)
    assert (last.space.feature_maps, last.space.kernels) == (False, True)
    assert (last.search.generations, last.search.tolerance, last.search.population) == (1, 0.4, 6)
    assert first.search.rounds == last.search.rounds == ()
    assert first.retrain == last.retrain
    assert first.retrain.epochs == 1


def test_a_config_without_rounds_is_its_own_round() -> None:
    config = config_from_dict({"name": "plain"})
    assert round_configs(config) == (config,)


def test_rounds_survive_the_dump(tmp_path: Path) -> None:
    config = config_from_dict(EXPERIMENT)
    (tmp_path / "x.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "x.yaml") == config


@pytest.mark.parametrize(
    ("rounds", "complaint"),
    [
        (3, "config: search.rounds must be a list of at most 100 rounds, each with some keys of the sections space"),
        (
            [{"model": {}}],
            "config: search.rounds must be a list of at most 100 rounds, each with some keys of the sections space",
        ),
        (
            [{"space": {"kernelz": True}}],
            "config: search.rounds, round 1: unknown key 'space.kernelz' (did you mean 'space.kernels'?)",
        ),
        ([{}, {"search": {"tolerance": 4}}], "config: search.rounds, round 2: search.tolerance must be between 0 and"),
        ([{"search": {"rounds": []}}], "config: search.rounds, round 1: search.rounds must not be in a round"),
        (
            [{"space": {"kernels": True}}, {}],
            "config: search.rounds, round 1: space.kernels must be false in all rounds but the last, not true",
        ),
        (
            [{}, {"space": {"strides": True}}, {}],
            "config: search.rounds, round 2: space.strides must be false in all rounds but the last, not true",
        ),
        (
            [{}, {"space": {"feature_maps": False}}],
            "config: search.rounds, round 2: space must have at least one of feature_maps, kernels and strides true",
        ),
    ],
)
def test_a_complaint_about_rounds_is_one_line(rounds: object, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_dict(experiment(rounds))
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


def test_later_rounds_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    config = config_from_dict(experiment([{}, {"space": {"kernels": True, "kernel_block": 99}}]))
    with pytest.raises(ep.errors.UserError, match="kernel_block"):
        ep.run(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_inspect_shows_and_names_the_first_round(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(dump_config(config_from_dict(EXPERIMENT)))
    shown = CliRunner().invoke(app, ["inspect", str(path)])
    assert shown.exit_code == 0
    assert f"{NETWORK}: {4 + 8 + 16} genes in 3 groups" in shown.stdout
    assert "round 1 of 2" in shown.stdout


# --- a run of two rounds


def test_the_layout_of_the_run_folder(run: ep.Run) -> None:
    found = {path.relative_to(run.root).as_posix() for path in run.root.rglob("*") if path.is_file()}
    first = ep.load_run(run.root / "rounds" / "1")

    def files_of(part: ep.Run, generations: int) -> set[str]:
        return {
            *(
                "config.yaml",
                "environment.json",
                "baseline.safetensors",
                "space.json",
                "execution.json",
                "survivors.parquet",
                "layers.parquet",
            ),
            *(f"candidates/gen-000{generation}.parquet" for generation in range(generations + 1)),
            *(f"checkpoints/gen-000{generation}.json" for generation in range(generations + 1)),
            *part.survivors["weights"],
        }

    assert not first.survivors.empty
    assert not run.survivors.empty
    assert found == {"lock", "identity.json"} | files_of(run, 1) | {f"rounds/1/{name}" for name in files_of(first, 2)}
    assert run.config == config_from_dict(EXPERIMENT)
    assert first.config == round_configs(run.config)[0]


def test_all_is_measured_against_the_original_network(run: ep.Run) -> None:
    first = ep.load_run(run.root / "rounds" / "1")
    for survivors in (first.survivors, run.survivors):
        assert survivors["macs_ratio"].tolist() == [macs / WHOLE_MACS for macs in survivors["macs"]]
    for column in ("baseline_mcr_test", "baseline_mcr_validation"):
        assert run.survivors[column].unique().tolist() == first.survivors[column].unique().tolist()
    handed_on, last = (SearchSpace.from_dict(files.read_json(RunFolder(root).space)) for root in (first.root, run.root))
    assert ep.cost(handed_on, first.genome(first.survivors["key"][0])) == ep.cost(last, last.full())


def test_the_tolerance_is_above_the_original_network(run: ep.Run) -> None:
    """The first round's baseline makes e errors of 200 as scored: the last round allows e + 0.4 x 200."""
    data = load_data(run.config.data, run.config.seed)
    folder = RunFolder(run.root / "rounds" / "1")
    original = build_network(NETWORK, (1, 28, 28), 10, torch.Generator())
    load_weights(original, files.read_tensors(folder.baseline)[0], "baseline")
    space = SearchSpace.from_dict(files.read_json(folder.space))
    tensors = (data.calibration.tensors()[0], *data.validation.tensors())
    errors = errors_as_scored(original.eval(), space, *tensors, CPU)
    posed = make_problem(original, space, *tensors, tolerance=0.3, compensate=True, device=CPU)
    assert posed.allowed_errors == allowed_errors(errors, 200, 0.3) == errors + 60
    assert Scorer(posed, CPU).score(space.full()).score.errors == errors
    exact = run.candidates[run.candidates["exact"]]
    assert (exact["feasible"] == (exact["errors"] <= errors + 80)).all()
    stopped = run.candidates[~run.candidates["exact"]]
    assert ((stopped["errors"] == errors + 81) == (stopped["feasible"] == False)).all()  # noqa: E712
    assert (stopped.loc[stopped["feasible"].isna(), "errors"] <= errors + 80).all()


@pytest.mark.parametrize("part", [".", "rounds/1"])
def test_a_loaded_survivor_makes_the_errors_of_the_table(run: ep.Run, part: str) -> None:
    loaded = ep.load_run(run.root / part)
    test = load_data(run.config.data, run.config.seed).test
    for row in loaded.survivors.itertuples():
        assert count_errors(loaded.load_survivor(str(row.key)), test, CPU) / len(test) == row.mcr_test


def test_the_run_is_listed_once(run: ep.Run) -> None:
    listed = ep.load_runs(run.root.parent)
    assert listed["run"].tolist() == ["run"] * len(run.survivors)
    assert listed["key"].tolist() == run.survivors["key"].tolist()


# --- going on


class Interrupting(SilentProgress):
    """Ctrl-C when the n-th report of a kind comes (0: the first)."""

    def __init__(self, kind: str, count: int):
        self._left = {kind: count}

    def stage(self, name: str, detail: str = "") -> None:
        self._count(name)

    def generation(self, summary: object) -> None:
        self._count("generation")

    def _count(self, kind: str) -> None:
        if kind in self._left:
            if not self._left[kind]:
                raise KeyboardInterrupt
            self._left[kind] -= 1


def test_interrupted_in_every_round_equals_uninterrupted(run: ep.Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        ep.run(config_from_dict(EXPERIMENT), out=folder, progress=Interrupting("generation", 1))
    assert not (folder / "rounds" / "1" / "survivors.parquet").exists()
    for kind, count in (("retrain", 0), ("round", 1), ("generation", 0), ("test", 0)):
        with pytest.raises(KeyboardInterrupt):
            ep.resume(folder, progress=Interrupting(kind, count))
        assert not (folder / "survivors.parquet").exists()
    assert (folder / "rounds" / "1" / "survivors.parquet").exists()
    ep.resume(folder)
    assert results(folder) == results(run.root)


def test_a_finished_run_is_not_touched(run: ep.Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    ep.resume(run.root)
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before


def test_overrides_on_resuming_change_only_the_last_round(run: ep.Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.root, folder)
    first = results(folder / "rounds")
    changed = ep.resume(folder, {"retrain.survivors": 1, "retrain.epochs": 0})
    assert len(changed.survivors) == 1
    assert results(folder / "rounds") == first


def test_a_branch_takes_the_earlier_rounds_along(run: ep.Run, tmp_path: Path) -> None:
    branch = ep.resume(run.root, generation=0, out=tmp_path / "branch")
    assert results(branch.root) == results(run.root)


@pytest.mark.parametrize(
    ("part", "overrides", "complaint"),
    [
        ("rounds/1", {}, "is a round of the run"),
        (".", {"search.rounds": []}, "search.rounds cannot change in a run that is resumed"),
        (".", {"search.tolerance": 0.1}, "search.tolerance cannot change in a run that is resumed"),
    ],
)
def test_changes_that_are_refused_on_resuming(
    run: ep.Run, part: str, overrides: dict[str, object], complaint: str
) -> None:
    before = results(run.root)
    with pytest.raises((ConfigError, RunFolderError), match=complaint):
        ep.resume(run.root / part, overrides)
    assert results(run.root) == before


def test_overwriting_removes_rounds_but_no_other_files(run: ep.Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.root, folder)
    (folder / "rounds" / "1" / "notes.txt").write_text("mine")
    clear(RunFolder(folder))
    left = {path for path in folder.rglob("*") if path.is_file()}
    assert left == {folder / "lock", folder / "rounds" / "1" / "notes.txt"}
    shutil.rmtree(folder)
    shutil.copytree(run.root, folder)
    plain = Config.model_validate(round_configs(run.config)[0].model_dump())
    ep.run(plain, out=folder, overwrite=True)
    assert not (folder / "rounds").exists()


def test_a_round_without_survivors_leaves_the_network_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    search = stages.search

    def barren_at_first(context: RoundContext, *arguments: Any) -> list[Candidate]:
        return search(context, *arguments) if context.reference else []

    monkeypatch.setattr(stages, "search", barren_at_first)
    run = ep.run(config_from_dict(EXPERIMENT), out=tmp_path / "run")
    first = ep.load_run(run.root / "rounds" / "1")
    assert first.survivors.empty
    assert "starts from the same network" in caplog.text
    handed_on, original = (files.read_tensors(RunFolder(part.root).baseline)[0] for part in (run, first))
    assert handed_on.keys() == original.keys()
    assert all(torch.equal(handed_on[name], original[name]) for name in original)
    assert run.survivors["macs_ratio"].between(0, 1, inclusive="neither").all()
    for key in run.survivors["key"]:
        run.load_survivor(key)


def test_the_baseline_teaches_in_every_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the pruned network that a later round begins with."""
    made: list[Retraining] = []
    round_retraining = stages.round_retraining

    def recorded(context: RoundContext) -> Retraining:
        made.append(round_retraining(context))
        return made[-1]

    monkeypatch.setattr(stages, "round_retraining", recorded)
    ep.run(config_from_dict(EXPERIMENT), {"retrain.distillation": 0.5}, out=tmp_path / "run")
    weights, _ = files.read_tensors(RunFolder(tmp_path / "run" / "rounds" / "1").baseline)
    first, second = made
    assert first.teacher is None  # the problem's network, which is the baseline
    assert second.teacher is not None
    taught_by = second.teacher.state_dict()
    assert all(torch.equal(taught_by[name], tensor) for name, tensor in weights.items())


def test_rounds_of_a_network_given_as_an_object() -> None:
    data = load_data(config_from_dict(EXPERIMENT).data, 0)
    model = build_network(NETWORK, (1, 28, 28), 10, torch.Generator().manual_seed(0)).eval()
    rounds: tuple[dict[RoundSection, dict[str, Any]], ...] = (
        {"space": {"keep_first_conv": True}},
        {"space": {"feature_maps": False, "strides": True}},
    )
    run = ep.evolve(
        model,
        torch.zeros(1, 1, 28, 28),
        data.validation.tensors(),
        data.calibration.tensors()[0],
        tolerance=1.0,
        search=SearchConfig(population=4, generations=1, rounds=rounds),
        workers=WorkersConfig(backend="serial"),
        device="cpu",
    )
    first = ep.load_run(run.root / "rounds" / "1")
    assert not first.config.space.strides
    row = run.survivors.iloc[0]
    assert row["macs_ratio"] == row["macs"] / WHOLE_MACS < first.survivors["macs_ratio"].iloc[0]
    images, labels = data.validation.tensors()
    with torch.no_grad():
        wrong = (run.load_survivor(row["key"])(images).argmax(1) != labels).sum()
    assert int(wrong) / len(labels) == row["mcr_retrained"]
