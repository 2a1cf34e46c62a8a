"""Small tables as CSV: written, read back, and refused in one line if they are others' or damaged."""

from pathlib import Path

import pytest

from evoprune.errors import ConfigError
from evoprune.record.csv_tables import read_csv, write_csv

ROWS = [{"run": "one", "note": 'a "quoted", long\nnote'}, {"run": "two", "note": ""}]


def test_rows_come_back_as_text(tmp_path: Path) -> None:
    assert read_csv(tmp_path / "table.csv", ["run"]) == []
    write_csv(tmp_path / "table.csv", [ROWS[0], {"run": 2, "note": None}])
    assert read_csv(tmp_path / "table.csv", ["run"]) == [ROWS[0], {"run": "2", "note": ""}]


def test_a_table_cut_anywhere_is_refused_or_loses_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_csv(path, ROWS)
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        if content[:end] in (content[: content.index(b"one")], content[: content.index(b"two")]):
            assert len(read_csv(path, ["run"])) == (b"one" in content[:end])
        else:
            with pytest.raises(ConfigError, match=r"\A[^\n]*\Z"):
                read_csv(path, ["run"])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a,b\n1,2\n", r"table.csv is another table \(it lacks run\); give another --out"),
        (b"run\none,two\n", "is cut off or has lines of several lengths; put it back from a copy, or remove it"),
        (b"\xff\xfe", "cannot be read as a table"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=complaint):
        read_csv(tmp_path / "table.csv", ["run"])
