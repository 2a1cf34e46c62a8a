"""Tables that are read back have the types and values that a run writes, or are refused with the place."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import evoprune as ep
from evoprune.record import files
from evoprune.record.columns import checked
from evoprune.record.file_errors import DamagedFileError
from evoprune.record.folder import RunFolder
from evoprune.record.tables import SURVIVOR_DTYPES, SurvivorRow, survivors_frame


@pytest.fixture
def real(tiny_run: ep.Run, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(tiny_run.root, tmp_path / "real")))


SURVIVORS = {
    "a ratio of zero": ("macs_ratio", 0.0, "the column macs_ratio has 0.0"),
    "a ratio below zero": ("params_ratio", -1.0, "the column params_ratio has -1.0"),
    "an infinite ratio": ("bytes_ratio", float("inf"), "the column bytes_ratio has inf"),
    "no key": ("key", None, "the column key has a missing value"),
    "a key with an escape": ("key", "\x1b[2J", r"the column key has '\x1b[2J'"),
    "a key that leads out": ("key", "../../evil", "the column key has '../../evil'"),
    "an MCR above one": ("mcr_test", 1.5, "the column mcr_test has 1.5"),
    "no MCR": ("mcr_retrained", float("nan"), "the column mcr_retrained has a missing value"),
    "MACs below zero": ("macs", -1, "the column macs has -1"),
    "MACs as a text": ("macs", "many", "a column has the wrong type"),
    "an MCR as a list": ("mcr_search", [0.5], "a column has the wrong type"),
    "a key as a number": ("key", 5, "the column key has the wrong type"),
    "a path with a line end": ("weights", "a\nb", r"the column weights has 'a\nb'"),
}


@pytest.mark.parametrize("case", SURVIVORS)
def test_survivors_that_no_run_wrote(case: str, survivor: Callable[..., SurvivorRow], tmp_path: Path) -> None:
    name, value, reason = SURVIVORS[case]
    frame = survivors_frame([survivor("a", 400, 0.12)]).astype(object)
    frame[name] = pd.Series([value], dtype=object)
    files.write_parquet(tmp_path / "survivors.parquet", frame)
    read = files.read_parquet([tmp_path / "survivors.parquet"])
    with pytest.raises(DamagedFileError) as error:
        checked(read, SURVIVOR_DTYPES, tmp_path / "survivors.parquet")
    assert str(error.value).startswith(f"{tmp_path}/survivors.parquet is damaged: ")
    assert reason in str(error.value).replace("\\\\", "\\")
    assert str(error.value).isprintable()


def test_a_run_without_a_test_set_is_read(survivor: Callable[..., SurvivorRow], tmp_path: Path) -> None:
    files.write_parquet(tmp_path / "s.parquet", survivors_frame([survivor("a", 400, float("nan"))]))
    assert checked(files.read_parquet([tmp_path / "s.parquet"]), SURVIVOR_DTYPES, tmp_path)["mcr_test"].isna().all()


def forge(path: Path, **columns: Any) -> None:
    frame = files.read_parquet([path])
    for name, value in columns.items():
        frame[name] = [value] * len(frame)
    files.write_parquet(path, frame)


CANDIDATES: dict[str, tuple[dict[str, Any], str]] = {
    "another generation": ({"generation": 7}, "another generation than its file's name"),
    "more errors than images": ({"errors": 1000}, "more errors than images seen"),
    "more seen than there are": ({"images_seen": 1000}, "saw more than there are"),
    "no images": ({"images": 0}, "the column images has 0"),
    "a negative time": ({"eval_seconds": -1.0}, "the column eval_seconds has -1.0"),
}


@pytest.mark.parametrize("case", CANDIDATES)
def test_candidates_that_no_run_wrote(case: str, real: RunFolder) -> None:
    columns, reason = CANDIDATES[case]
    forge(real.candidates(1), **columns)
    with pytest.raises(DamagedFileError, match=reason):
        _ = ep.load_run(real.root).candidates


def test_genomes_of_several_lengths(real: RunFolder) -> None:
    frame = files.read_parquet([real.candidates(1)])
    frame["genome"] = pd.Series([b"\x01" * (number + 1) for number in range(len(frame))], dtype="object")
    files.write_parquet(real.candidates(1), frame)
    with pytest.raises(DamagedFileError, match="its genomes are of several lengths"):
        _ = ep.load_run(real.root).candidates
