"""Small tables as CSV, which other programs and people read."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evoprune.record.files import write_text

Row = Mapping[str, Any]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Puts rows of the same keys at `path`, whole or not at all. None is an empty field. Raises as `write_text`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows at `path`, every value as text; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
