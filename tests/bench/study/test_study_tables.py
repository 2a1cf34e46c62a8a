"""The tables of a study: read back, locked, and refused in one line if damaged."""

import subprocess
import sys
from pathlib import Path

import pytest

from evoprune.bench.study.study_tables import Choice, StudyRow, Tables, choices_path, opened_tables
from evoprune.errors import ConfigError, RunFolderError

ROW = StudyRow("net", 0.25, 0, "nsga2", "gram", 0.2499, 0.1115, 1 / 3, 0.063, 24, 4.2, "ab", 4.2, 4.001, bytes=848284)
CHOICE = Choice("net", 0.25, 0, "nsga2", "gram", 0.2499, 0.1115, 24, 4.2, "ab", "01ff")
RESULTS = Path(__file__).parents[3] / "results"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two rows and two choices."""
    tables = Tables(tmp_path / "study.csv", [], [])
    tables.choose([CHOICE, Choice(**(vars(CHOICE) | {"seed": 1}))])
    tables.add([ROW, StudyRow(**(vars(ROW) | {"seed": 1}))])
    return tables.out


def test_rows_round_trip_bit_by_bit(out: Path) -> None:
    tables = Tables.read(out)
    assert tables.rows[0].mcr_test == 1 / 3
    assert tables.rows[0].cell == ("net", 0.25, 0, "nsga2", "gram")
    assert tables.choices[0] == CHOICE
    assert tables.choices[0].genes.tolist() == [1, 255]
    before = out.read_bytes(), choices_path(out).read_bytes()
    tables.add(tables.rows)
    tables.choose(tables.choices)
    assert (out.read_bytes(), choices_path(out).read_bytes()) == before


@pytest.mark.parametrize("name", ["study_fashion", "study_ablation", "study_fitness", "study_distillation"])
def test_shipped_tables_are_read(name: str) -> None:
    tables = Tables.read(RESULTS / f"{name}.csv")
    assert {choice.cell for choice in tables.choices} >= tables.done
    assert tables.done


def test_a_table_cut_anywhere_is_refused_in_one_line_or_loses_whole_rows(out: Path) -> None:
    """The rows and the choices; a cut at a line's end leaves a table of fewer rows."""
    for path in (out, choices_path(out)):
        content = path.read_bytes()
        for end in sorted({*range(1, len(content), 11), len(content) - 1, content.index(b"\n") + 1}):
            path.write_bytes(content[:end])
            if content[end - 1 : end] == b"\n":
                Tables.read(out)
                continue
            with pytest.raises(ConfigError) as caught:
                Tables.read(out)
            assert "\n" not in str(caught.value)
            assert str(path) in str(caught.value)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "0.2499",
            "quarter",
            r"study.csv, row 1: macs_ratio: .*; the file is damaged: put it back from a copy, or delete",
        ),
        ("0.063", "63", r"row 1: baseline_mcr_test: "),
        ("0.063", "", r"row 1: baseline_mcr_test: "),
        ("0.063", "nan", r"row 1: baseline_mcr_test: "),
        (",0,nsga2", ",zero,nsga2", r"row 1: seed: "),
    ],
)
def test_damaged_rows(out: Path, old: str, new: str, complaint: str) -> None:
    out.write_text(out.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=complaint):
        Tables.read(out)


def test_a_damaged_genome(out: Path) -> None:
    choices_path(out).write_text(choices_path(out).read_text().replace("01ff", "01f"))
    with pytest.raises(ConfigError, match=r"study_choices.csv, row 1: genome: "):
        Tables.read(out)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a\n1,2,3\n", b""])
def test_no_table_at_all(out: Path, content: bytes) -> None:
    out.write_bytes(content)
    with pytest.raises(ConfigError, match=r"study.csv (cannot be read as a table|is no table of a study)"):
        Tables.read(out)


HOLD = """
import sys
from pathlib import Path
from evoprune.bench.study.study_tables import opened_tables
with opened_tables(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_on_one_table_is_refused(out: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(
                RunFolderError, match=rf"study.csv is worked on by another evoprune \(process {other.pid} on"
            ),
            opened_tables(out),
        ):
            pass
        other.communicate()
    with opened_tables(out) as tables:
        assert len(tables.rows) == 2
