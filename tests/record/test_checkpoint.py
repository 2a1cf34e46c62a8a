"""Snapshots come back as they were, and whatever else stands in their place is refused in one line."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evoprune as ep
from evoprune.config.loading import round_configs
from evoprune.errors import RunFolderError
from evoprune.pipeline.stages import search_fingerprint
from evoprune.record import checkpoint, files
from evoprune.record.checkpoint import (
    Snapshot,
    drop_after,
    newest_state,
    read_snapshot,
    restore_search,
    write_snapshot,
)
from evoprune.record.folder import RunFolder
from evoprune.scoring.candidate import Candidate

FINGERPRINT: Mapping[str, Any] = {"seed": 0, "search.tolerance": 0.02, "space.keep": ("fc",), "space": "ab12"}
LOOP: Mapping[str, Any] = {"wrong_share": [0.25], "conditions": [], "under_way": []}
IMAGES = 200  # of tiny_runs


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run with the snapshots and candidates of generations 0 to 3."""
    folder = RunFolder(tmp_path)
    for generation in range(4):
        write_snapshot(folder, Snapshot(generation, {"front": [f"{generation:x}"]}, dict(LOOP), dict(FINGERPRINT)))
        files.write_bytes(folder.candidates(generation), b"")
    return folder


@pytest.fixture
def real(tiny_run: ep.Run, tmp_path: Path) -> RunFolder:
    """The folder of a real run, to be changed."""
    return RunFolder(Path(shutil.copytree(tiny_run.root, tmp_path / "real")))


def state_of(run: ep.Run, folder: RunFolder) -> tuple[Snapshot | None, list[Candidate]]:
    fingerprint = search_fingerprint(round_configs(run.config)[-1], run.space)
    return newest_state(folder, fingerprint, run.space, IMAGES)


def test_a_generator_continues_from_its_state(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rng.random(5)
    folder = RunFolder(tmp_path)
    write_snapshot(folder, Snapshot(0, {"rng": rng.bit_generator.state}, dict(LOOP), {}))
    resumed = np.random.default_rng()
    resumed.bit_generator.state = read_snapshot(folder, 0, {}).algorithm["rng"]
    assert resumed.random(4).tolist() == rng.random(4).tolist()


def test_the_newest_is_the_highest_generation(tiny_run: ep.Run) -> None:
    snapshot, candidates = state_of(tiny_run, RunFolder(tiny_run.root))
    assert snapshot is not None
    assert snapshot.generation == 3
    assert [candidate.key for candidate in candidates] == tiny_run.candidates["key"].tolist()


def test_a_run_without_snapshots(tiny_run: ep.Run, tmp_path: Path) -> None:
    assert state_of(tiny_run, RunFolder(tmp_path)) == (None, [])


def test_damaged_snapshots_are_named_and_skipped(
    tiny_run: ep.Run, real: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    real.snapshot(3).write_bytes(real.snapshot(3).read_bytes()[:-10])
    real.candidates(2).write_bytes(b"")
    snapshot, candidates = state_of(tiny_run, real)
    assert snapshot is not None
    assert snapshot.generation == max(candidate.generation for candidate in candidates) == 1
    assert [message.split(" is damaged")[0] for message in caplog.messages] == [
        str(real.snapshot(3)),
        str(real.candidates(2)),
    ]


def test_a_run_with_only_damaged_snapshots_is_refused(tiny_run: ep.Run, real: RunFolder) -> None:
    """All generations would be lost with it."""
    for generation in range(4):
        real.snapshot(generation).write_bytes(b"")
    with pytest.raises(files.DamagedFileError, match=r"gen-0003\.json is damaged.*put it back from a copy"):
        state_of(tiny_run, real)


def test_a_copy_with_another_generations_name_is_skipped(
    tiny_run: ep.Run, real: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, this went round for ever."""
    shutil.copy(real.snapshot(1), real.snapshot(2))
    shutil.copy(real.snapshot(1), real.snapshot(3))
    snapshot, _ = state_of(tiny_run, real)
    assert snapshot is not None
    assert snapshot.generation == 1
    assert "gen-0003.json is damaged: it is of generation 1" in caplog.messages[0]


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"search.tolerance": 0.01}, r"search\.tolerance was 0\.02 and is now 0\.01"),
        ({"seed": None}, "seed was 0 and is now null"),
        ({"space": "cd34"}, 'space was "ab12" and is now "cd34"'),
        ({"space.keep": ()}, r'space\.keep was \["fc"\] and is now \[\]'),
        ({"search.new": 1}, r"search\.new was absent and is now 1"),
    ],
)
def test_a_snapshot_of_another_search_is_refused_with_the_difference(
    folder: RunFolder, changed: dict[str, Any], difference: str
) -> None:
    with pytest.raises(RunFolderError, match=difference):
        read_snapshot(folder, 3, {**FINGERPRINT, **changed})


def test_a_snapshot_of_another_layout_is_refused(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LAYOUT", 3)
    with pytest.raises(RunFolderError, match="has layout 2, not 3"):
        read_snapshot(folder, 3, FINGERPRINT)


def test_a_snapshot_of_another_version_is_refused(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.metadata, "version", lambda package: "9.9")
    with pytest.raises(RunFolderError, match=r'by evoprune "0\.1\.0", and this is 9\.9, .* resume with'):
        read_snapshot(folder, 3, FINGERPRINT)


@pytest.mark.parametrize("content", [None, [], "x", {"layout": "2"}, {"layout": 2}])
def test_other_json_counts_as_a_damaged_snapshot(folder: RunFolder, content: object) -> None:
    files.write_json(folder.snapshot(3), content)
    with pytest.raises(files.DamagedFileError, match=r"gen-0003\.json is damaged.*or remove it"):
        read_snapshot(folder, 3, FINGERPRINT)


@pytest.mark.parametrize("name", ["version", "layout", "fingerprint"])
def test_long_values_of_a_snapshot_are_cut_in_messages(folder: RunFolder, name: str) -> None:
    content = files.read_json(folder.snapshot(3))
    content[name] = {"seed": "9" * 5000, "x" * 5000: 1} if name == "fingerprint" else "9" * 5000
    files.write_json(folder.snapshot(3), content)
    with pytest.raises(RunFolderError) as error:
        read_snapshot(folder, 3, FINGERPRINT)
    assert len(str(error.value)) < 600


def test_the_error_for_a_missing_snapshot_lists_the_others(folder: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"generation 9; there are: 0, 1, 2, 3"):
        read_snapshot(folder, 9, FINGERPRINT)


def test_a_search_without_a_score_of_the_whole_network_is_refused(tiny_run: ep.Run, real: RunFolder) -> None:
    """Every table marks the unpruned network as scored in an earlier generation."""
    unpruned = tiny_run.space.key(tiny_run.space.full())
    for generation in range(4):
        frame = files.read_parquet([real.candidates(generation)])
        frame.loc[frame["key"] == unpruned, "cached"] = True
        files.write_parquet(real.candidates(generation), frame)
    with pytest.raises(files.DamagedFileError, match=r"the tables up to it lack the unpruned network"):
        state_of(tiny_run, real)


# --- a snapshot that was tampered with, checksum and all

Change = Callable[[dict[str, Any]], object]


def put(*path: Any, value: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        *outer, last = path
        for part in outer:
            content = content[part]
        content[last] = value

    return change


def drop(*path: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        *outer, last = path
        for part in outer:
            content = content[part]
        del content[last]

    return change


FORGED: dict[str, tuple[Change, str]] = {
    "generation text": (put("generation", value="x"), "generation: Input should be a valid integer"),
    "generation below zero": (put("generation", value=-1), "generation: Input should be greater than or equal to 0"),
    "another generation": (put("generation", value=2), "it is of generation 2"),
    "no loop": (drop("loop"), "loop: Field required"),
    "loop a list": (put("loop", value=[]), "loop: Input should be an object"),
    "no conditions": (drop("loop", "conditions"), "loop.conditions: Field required"),
    "a key more": (put("loop", "more", value=1), "loop.more: Extra inputs are not permitted"),
    "a share that is text": (
        put("loop", "wrong_share", 0, value="half"),
        "wrong_share.0: Input should be a valid",
    ),
    "a share above one": (put("loop", "wrong_share", 0, value=1.5), "wrong_share.0: Input should be less than"),
    "fewer images": (put("loop", "wrong_share", value=[0.5]), "it is of 1 validation images, not 200"),
    "generator state a list": (put("algorithm", "rng", value=[1]), "algorithm.rng: Input should be an object"),
    "generator state text": (put("algorithm", "rng", value="x"), "algorithm.rng: Input should be an object"),
    "generator state null": (put("algorithm", "rng", value=None), "rng must not be null"),
    "another generator": (put("algorithm", "rng", "bit_generator", value="MT19937"), "bit_generator: Input should be"),
    "too large a state": (put("algorithm", "rng", "state", "state", value=2**128), "state.state: Input should be less"),
    "unknown candidate": (
        put("algorithm", "front", value=["ffff"]),
        "it names the candidate ffff, which no table up",
    ),
    "a key that is no key": (put("algorithm", "front", value=["\x1b[2J"]), "front.0: String should match pattern"),
    "an empty population": (put("algorithm", "population", value=[]), "population: List should have at least 1 item"),
    "no algorithm": (put("algorithm", value=None), "algorithm: Input should be an object"),
    "no fingerprint": (put("fingerprint", value=[]), "fingerprint: Input should be an object"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_snapshot_is_named_and_skipped(
    case: str, tiny_run: ep.Run, real: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    change, reason = FORGED[case]
    content = files.read_json(real.snapshot(3))
    change(content)
    files.write_json(real.snapshot(3), content)
    snapshot, _ = state_of(tiny_run, real)
    assert snapshot is not None
    assert snapshot.generation == 2
    assert f"{real.snapshot(3)} is damaged: " in caplog.messages[0]
    assert reason in caplog.messages[0]
    assert caplog.messages[0].isprintable()


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    """A run whose snapshots have parts under way."""
    from tests import tiny_runs

    return tiny_runs.run(tmp_path_factory.mktemp("steady") / "run", {"search.steady_state": True, "retrain.epochs": 0})


PART = ("loop", "under_way", 0)
FORGED_PARTS: dict[str, tuple[Change, str]] = {
    "bad hex": (put(*PART, "genomes", 0, value="0g"), "genomes.0: String should match pattern"),
    "an odd number of digits": (put(*PART, "genomes", 0, value="010"), "genomes.0: String should match pattern"),
    "a short genome": (put(*PART, "genomes", 0, value="01"), "is none of this search space's"),
    "an index out of range": (put(*PART, "conditions", value=99), "conditions 99 of a batch under way are not there"),
    "an image twice": (put("loop", "conditions", 0, "order", 0, value=5), "each of the 200 images once"),
    "an image that is not there": (put("loop", "conditions", 0, "order", 0, value=200), "each of the 200 images once"),
    "a key of another genome": (put(*PART, "keys", 0, value="ab"), "a genome under way has another key"),
    "a key less": (put(*PART, "keys", value=[]), "keys: List should have at least 1 item"),
    "a later generation": (put(*PART, "generation", value=9), "must be of the next generation"),
    "a front of texts": (put("loop", "conditions", 0, "known", value=[["a", "b"]]), "known.0.0: Input should be"),
}


@pytest.mark.parametrize("case", FORGED_PARTS)
def test_a_forged_unfinished_part(case: str, steady: ep.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(Path(shutil.copytree(steady.root, tmp_path / "run")))
    change, reason = FORGED_PARTS[case]
    content = files.read_json(folder.snapshot(3))
    change(content)
    files.write_json(folder.snapshot(3), content)
    snapshot, _ = state_of(steady, folder)
    assert snapshot is not None
    assert snapshot.generation == 2
    assert reason in caplog.messages[0]


class Stub:
    """An algorithm with two populations, and its loop, which goes on from numbers alone."""

    def state(self) -> dict[str, Any]:
        return {"asked": 0, "populations": [[], []]}

    def restore(self, generation: int, state: Mapping[str, Any], loop: object, candidates: Sequence[Candidate]) -> None:
        raise KeyError(state["populations"][0][0])


@pytest.mark.parametrize(
    "state",
    [{}, {"asked": 1}, {"asked": 1, "populations": [["a"]]}, {"asked": 1, "populations": [["a"], ["b"]]}],
)
def test_the_state_of_another_algorithm_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    stub: Any = Stub()
    with pytest.raises(files.DamagedFileError, match=r"gen-0003\.json is damaged: its (state|search)"):
        restore_search(RunFolder(tmp_path), stub, stub, Snapshot(3, state, dict(LOOP), {}), [])


def test_later_generations_are_dropped(folder: RunFolder) -> None:
    drop_after(folder, 1)
    assert folder.snapshot_generations() == [0, 1]
    assert folder.candidate_generations() == [0, 1]
    drop_after(folder, -1)
    assert folder.snapshot_generations() == folder.candidate_generations() == []
