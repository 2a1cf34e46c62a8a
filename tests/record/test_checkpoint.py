from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evoprune.errors import RunFolderError
from evoprune.record import checkpoint, files
from evoprune.record.checkpoint import Snapshot, drop_after, newest_snapshot, read_snapshot, write_snapshot
from evoprune.record.folder import RunFolder

FINGERPRINT: Mapping[str, Any] = {"seed": 0, "search.tolerance": 0.02, "space.keep": ("fc",), "space": "ab12"}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run with the snapshots and candidates of generations 0 to 3."""
    folder = RunFolder(tmp_path)
    for generation in range(4):
        write_snapshot(
            folder,
            Snapshot(generation, {"population": [f"{generation:x}"]}, {"wrong_share": [0.25]}, dict(FINGERPRINT)),
        )
        files.write_bytes(folder.candidates(generation), b"")
    return folder


def unexpected(warning: str) -> None:
    raise AssertionError(warning)


def test_a_generators_state_goes_on_where_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rng.random(5)
    folder = RunFolder(tmp_path)
    write_snapshot(folder, Snapshot(0, {"rng": rng.bit_generator.state}, {}, {}))
    resumed = np.random.default_rng()
    resumed.bit_generator.state = read_snapshot(folder, 0, {}).algorithm["rng"]
    assert resumed.random(4).tolist() == rng.random(4).tolist()


def test_the_newest_is_the_highest_generation(folder: RunFolder) -> None:
    snapshot = newest_snapshot(folder, FINGERPRINT, unexpected)
    assert snapshot is not None
    assert (snapshot.generation, snapshot.algorithm) == (3, {"population": ["3"]})


def test_there_may_be_none(tmp_path: Path) -> None:
    assert newest_snapshot(RunFolder(tmp_path), FINGERPRINT, unexpected) is None


def test_damaged_ones_are_named_and_passed_over(folder: RunFolder) -> None:
    folder.snapshot(3).write_bytes(folder.snapshot(3).read_bytes()[:-10])
    folder.snapshot(2).write_bytes(b"")
    warnings: list[str] = []
    snapshot = newest_snapshot(folder, FINGERPRINT, warnings.append)
    assert snapshot is not None
    assert snapshot.generation == 1
    assert [warning.split(" is damaged")[0] for warning in warnings] == [
        str(folder.snapshot(3)),
        str(folder.snapshot(2)),
    ]


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
def test_one_of_another_search_is_refused_with_the_difference(
    folder: RunFolder, changed: dict[str, Any], difference: str
) -> None:
    with pytest.raises(RunFolderError, match=difference):
        newest_snapshot(folder, {**FINGERPRINT, **changed}, unexpected)


def test_one_of_another_layout_is_refused(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LAYOUT", 3)
    with pytest.raises(RunFolderError, match="has layout 2, not 3"):
        read_snapshot(folder, 3, FINGERPRINT)


def test_one_of_another_version_is_refused(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.metadata, "version", lambda package: "9.9")
    with pytest.raises(RunFolderError, match=r"by evoprune 0\.1\.0, and this is 9\.9, .* resume with"):
        newest_snapshot(folder, FINGERPRINT, unexpected)


@pytest.mark.parametrize("content", [None, [], {"layout": 2}, {"layout": 2, "generation": 0, "algorithm": {}}])
def test_one_that_is_no_snapshot_counts_as_damaged(folder: RunFolder, content: object) -> None:
    files.write_json(folder.snapshot(3), content)
    with pytest.raises(files.DamagedFileError, match="no snapshot"):
        read_snapshot(folder, 3, FINGERPRINT)


def test_a_missing_one_says_which_there_are(folder: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"generation 9; there are: 0, 1, 2, 3"):
        read_snapshot(folder, 9, FINGERPRINT)


def test_later_generations_are_dropped(folder: RunFolder) -> None:
    drop_after(folder, 1)
    assert folder.snapshot_generations() == [0, 1]
    assert folder.candidate_generations() == [0, 1]
    drop_after(folder, -1)
    assert folder.snapshot_generations() == folder.candidate_generations() == []
