"""The two tables of a study: its rows, and the choices that they were made of."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import pandas as pd
import pydantic
from pydantic import StringConstraints, TypeAdapter, ValidationError

from evoprune.errors import ConfigError
from evoprune.record import files
from evoprune.record.lock import locked_table
from evoprune.space.cost import Cost
from evoprune.space.plan import Genome
from evoprune.training.evaluation import Evaluation

CELL = ["network", "target", "seed", "method", "compensation"]
"""The columns that identify a row."""

Cell = tuple[str, float, int, str, str]
"""The values of `CELL`."""

Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Hexadecimal = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})*$")]


@dataclass(frozen=True)
class _OfCell:
    """The columns that identify a row, in either table."""

    network: str
    target: Share
    seed: int
    method: str
    compensation: str

    @property
    def cell(self) -> Cell:
        """The values that identify the row."""
        return self.network, self.target, self.seed, self.method, self.compensation


@dataclass(frozen=True)
class StudyRow(_OfCell):
    """The result of one method on one network, at one target and with one seed.

    Attributes:
        network: name of the network in the study.
        target: share of the unpruned cost that was asked for.
        seed: of the choice and of retraining.
        method: name of the method.
        compensation: gram or none, in scores and before retraining.
        macs_ratio: share of the MACs that was kept.
        mcr_before: on the validation set, before (the last) retraining.
        mcr_test: on the test set, after retraining.
        baseline_mcr_test: that of the unpruned network.
        scores: number of candidates scored for the choice, for all targets together.
        seconds: duration of the choice, for all targets together.
        key: key of the chosen phenotype.
        compression_ratio: parameters of the unpruned network over those of the pruned one.
        theoretical_speedup: MACs of the unpruned network over those of the pruned one.
        real_speedup: time for one image of the unpruned network over that of the pruned one; NaN before it is timed.
        bytes: stored size.
        cross_entropy_test: mean over the test images after retraining, in nats; NaN in older rows.
    """

    macs_ratio: Share
    mcr_before: Share
    mcr_test: Share
    baseline_mcr_test: Share
    scores: int
    seconds: float
    key: str
    compression_ratio: float = math.nan
    theoretical_speedup: float = math.nan
    real_speedup: float = math.nan
    bytes: int | float = math.nan
    cross_entropy_test: float = math.nan


@dataclass(frozen=True)
class Choice(_OfCell):
    """A row before its network is retrained.

    Attributes:
        genome: the chosen genome as hexadecimal digits; the others as of `StudyRow`.
    """

    macs_ratio: Share
    mcr_before: Share
    scores: int
    seconds: float
    key: str
    genome: Hexadecimal

    @property
    def genes(self) -> Genome:
        """The genome, uint8 (genes,)."""
        return np.frombuffer(bytes.fromhex(self.genome), dtype=np.uint8)


def row_of(choice: Choice, tested: Evaluation, baseline_mcr_test: float, left: Cost, unpruned: Cost) -> StudyRow:
    """The row of a choice.

    Args:
        choice: the choice.
        tested: its retrained network on the test set.
        baseline_mcr_test: the unpruned network's MCR on the test set.
        left: cost of the chosen network.
        unpruned: cost of the unpruned network.
    """
    kept = {field.name: getattr(choice, field.name) for field in fields(Choice) if field.name != "genome"}
    return StudyRow(
        **kept,
        mcr_test=tested.mcr,
        baseline_mcr_test=baseline_mcr_test,
        compression_ratio=round(unpruned.params / left.params, 3),
        theoretical_speedup=round(unpruned.macs / left.macs, 3),
        bytes=left.bytes,
        cross_entropy_test=round(tested.loss, 5),
    )


@dataclass(eq=False)
class Tables:
    """The tables of a study, in memory and in their files.

    Attributes:
        out: file of the rows; the choices are in `choices_path(out)`.
        rows: the rows.
        choices: the choices.
    """

    out: Path
    rows: list[StudyRow]
    choices: list[Choice]

    @classmethod
    def read(cls, out: Path) -> "Tables":
        """Reads the tables; they are empty if their files do not exist.

        Raises:
            ConfigError: a file is another table, or is damaged.
        """
        return cls(out, _read(out, StudyRow), _read(choices_path(out), Choice))

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a data frame."""
        return pd.DataFrame([asdict(row) for row in self.rows], columns=[field.name for field in fields(StudyRow)])

    @property
    def done(self) -> set[Cell]:
        """The cells that have a row."""
        return {row.cell for row in self.rows}

    def choose(self, choices: Sequence[Choice]) -> None:
        """Adds choices and writes them; they replace those of the same cells.

        Raises:
            RunFolderError: the file cannot be written.
        """
        cells = {choice.cell for choice in choices}
        self.choices = [*(choice for choice in self.choices if choice.cell not in cells), *choices]
        files.write_text(choices_path(self.out), pd.DataFrame(self.choices).to_csv(index=False))

    def add(self, rows: Sequence[StudyRow]) -> None:
        """Adds rows and writes them; they replace those of the same cells.

        Raises:
            RunFolderError: the file cannot be written.
        """
        new = {row.cell: row for row in rows}
        old = {row.cell: row for row in self.rows}
        self.rows = list((old | new).values())
        files.write_text(self.out, self.frame.to_csv(index=False))


@contextmanager
def opened_tables(out: Path) -> Iterator[Tables]:
    """The tables of a study, locked against other processes.

    Raises:
        RunFolderError: another process works on them.
        ConfigError: as `Tables.read`.
    """
    with locked_table(out):
        yield Tables.read(out)


def read_choices(path: Path) -> list[Choice]:
    """The choices in a file; none if it does not exist. Raises ConfigError: it is another table, or is damaged."""
    return _read(path, Choice)


def choices_path(out: Path) -> Path:
    """The file of the choices, beside the table."""
    return out.with_name(f"{out.stem}_choices.csv")


RowOrChoice = TypeVar("RowOrChoice", StudyRow, Choice)


def _read(path: Path, row_type: type[RowOrChoice]) -> list[RowOrChoice]:
    """The rows of a table, validated; columns with a default may be missing, unknown ones are left out.

    Raises:
        ConfigError: the file is another table, or is damaged.
    """
    if not path.is_file():
        return []
    try:
        whole = path.read_bytes().endswith(b"\n")
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # of the encoding, or of rows with too many fields
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(
            f"{path} cannot be read as a table ({reason}); put it back from a copy, or remove it"
        ) from error
    needed = [field.name for field in fields(row_type) if not _is_optional(field)]
    if missing := [name for name in needed if name not in table.columns]:
        raise ConfigError(f"{path} is no table of a study (it lacks {', '.join(missing)}); give another --out")
    adapter, rows = TypeAdapter(row_type), list[RowOrChoice]()
    for number, record in enumerate(table.to_dict("records"), 1):
        present = {
            field.name: record[field.name]
            for field in fields(row_type)
            if isinstance(record.get(field.name), str) and not (_is_optional(field) and record[field.name] == "")
        }
        try:
            rows.append(adapter.validate_python(present))
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(
                f"{path}, row {number}: {first['loc'][0]}: {first['msg']}; the file is damaged: put it back from a "
                "copy, or delete that row, and the study makes it again"
            ) from None
    if not whole:
        raise ConfigError(
            f"{path} is cut off in its last line; put it back from a copy, or delete that line, and the study makes it "
            "again"
        )
    return rows


def _is_optional(field: Field[Any]) -> bool:
    return field.default is not MISSING
