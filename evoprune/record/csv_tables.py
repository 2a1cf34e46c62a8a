"""Small tables as CSV, for people and other programs."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evoprune.errors import ConfigError
from evoprune.record.files import write_text

Row = Mapping[str, Any]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows of the same keys, whole or not at all; None becomes an empty field. Raises as `files.write_text`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table, every value as text; none if there is no file.

    Args:
        path: file of the table.
        columns: some of its columns, by which it is recognised.

    Raises:
        ConfigError: the file is another table, or is damaged.
    """
    if not path.exists():
        return []
    try:
        text = path.read_bytes().decode("utf-8")
        reader = csv.DictReader(io.StringIO(text), strict=True)
        rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"{path} cannot be read as a table ({reason}); put it back from a copy, or remove it"
        ) from error
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
        raise ConfigError(f"{path} is another table (it lacks {', '.join(missing)}); give another --out")
    complete = all(None not in row and None not in row.values() for row in rows)
    if not complete or not text.endswith("\n"):
        raise ConfigError(f"{path} is cut off or has lines of several lengths; put it back from a copy, or remove it")
    return rows
