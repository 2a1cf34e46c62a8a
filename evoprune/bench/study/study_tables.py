"""A study's tables: the rows, and what was chosen for them."""

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evoprune.errors import ConfigError
from evoprune.record import files
from evoprune.space.cost import Cost
from evoprune.space.plan import Genome
from evoprune.training.evaluation import Evaluation

CELL = ["network", "target", "seed", "method", "compensation"]
"""What tells rows apart."""

Cell = tuple[str, float, int, str, str]
"""The values of CELL."""

_MAYBE = ["compression_ratio", "theoretical_speedup", "real_speedup", "bytes", "cross_entropy_test"]
"""Numbers that may lack."""

_TEXT = ["network", "method", "compensation", "key", "genome"]


@dataclass(frozen=True)
class StudyRow:
    """What a method made of a network.

    target: share of the whole cost that was asked for; macs_ratio: of the MACs that were kept. compensation: gram or
    none, in scores and before retraining. mcr_before: on the validation set, before (the last) retraining; mcr_test:
    after it. scores, seconds: of choosing, for all targets at once. key: the chosen phenotype's. compression_ratio,
    theoretical_speedup: how many times as many parameters and MACs the unpruned network has. bytes: as stored.
    real_speedup: how many times as long it takes for one image; missing where it was not timed. cross_entropy_test: the
    mean of the test images after retraining, in nats; older rows lack it.
    """

    network: str
    target: float
    seed: int
    method: str
    compensation: str
    macs_ratio: float
    mcr_before: float
    mcr_test: float
    baseline_mcr_test: float
    scores: int
    seconds: float
    key: str
    compression_ratio: float = math.nan
    theoretical_speedup: float = math.nan
    real_speedup: float = math.nan
    bytes: float = math.nan
    cross_entropy_test: float = math.nan

    @property
    def cell(self) -> Cell:
        return self.network, self.target, self.seed, self.method, self.compensation


@dataclass(frozen=True)
class Choice:
    """A row before its network is retrained. genome: as hexadecimal digits."""

    network: str
    target: float
    seed: int
    method: str
    compensation: str
    macs_ratio: float
    mcr_before: float
    scores: int
    seconds: float
    key: str
    genome: str

    @property
    def cell(self) -> Cell:
        return self.network, self.target, self.seed, self.method, self.compensation

    @property
    def genes(self) -> Genome:
        return np.frombuffer(bytes.fromhex(self.genome), dtype=np.uint8)


def row_of(choice: Choice, tested: Evaluation, baseline_mcr_test: float, left: Cost, whole: Cost) -> StudyRow:
    """The row of a choice whose network was retrained and tested. left: its cost; whole: the unpruned network's."""
    kept = {field.name: getattr(choice, field.name) for field in fields(Choice) if field.name != "genome"}
    return StudyRow(
        **kept,
        mcr_test=tested.mcr,
        baseline_mcr_test=baseline_mcr_test,
        compression_ratio=round(whole.params / left.params, 3),
        theoretical_speedup=round(whole.macs / left.macs, 3),
        bytes=left.bytes,
        cross_entropy_test=round(tested.cross_entropy, 5),
    )


@dataclass(eq=False)
class Tables:
    """A study's two tables, in memory and in their files: `out`, and what was chosen beside it."""

    out: Path
    rows: list[StudyRow]
    choices: list[Choice]

    @classmethod
    def read(cls, out: Path) -> "Tables":
        """Those that are there, else empty ones. Raises ConfigError where they are other tables."""
        rows = [StudyRow(**row) for row in _read(out, StudyRow)]
        return cls(out, rows, [Choice(**row) for row in _read(choices_path(out), Choice)])

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame([asdict(row) for row in self.rows], columns=[field.name for field in fields(StudyRow)])

    @property
    def done(self) -> set[Cell]:
        """The cells that have their row."""
        return {row.cell for row in self.rows}

    def choose(self, choices: Sequence[Choice]) -> None:
        """Adds choices, in the place of those of the same cells. Raises RunFolderError where they cannot be written."""
        cells = {choice.cell for choice in choices}
        self.choices = [*(choice for choice in self.choices if choice.cell not in cells), *choices]
        files.write_text(choices_path(self.out), pd.DataFrame(self.choices).to_csv(index=False))

    def add(self, rows: Sequence[StudyRow]) -> None:
        """Adds rows, in the place of those of the same cells. Raises RunFolderError where they cannot be written."""
        new = {row.cell: row for row in rows}
        old = {row.cell: row for row in self.rows}
        self.rows = list((old | new).values())
        files.write_text(self.out, self.frame.to_csv(index=False))


def choices_path(out: Path) -> Path:
    """Where what was chosen is kept, beside the table."""
    return out.with_name(f"{out.stem}_choices.csv")


def _read(path: Path, row: type[StudyRow] | type[Choice]) -> list[dict[str, Any]]:
    """The rows of a table; none where there is no file. Columns with defaults may lack, others are left out.

    Raises ConfigError where it is another table.
    """
    if not path.is_file():
        return []
    empty = {name: [""] for name in _MAYBE}
    table = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False, na_values=empty)
    needed = [field.name for field in fields(row) if field.default is MISSING]
    lacking = [name for name in needed if name not in table.columns]
    if lacking:
        raise ConfigError(f"{path} is no table of a study (it lacks {', '.join(lacking)}); give another --out")
    known = [field.name for field in fields(row) if field.name in table.columns]
    return [{str(key): value for key, value in record.items()} for record in table[known].to_dict("records")]
