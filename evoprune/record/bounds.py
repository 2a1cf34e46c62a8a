"""Bounds on files, checked before their content is decoded: a file of a run folder may be anybody's.

The bounds are generous: no run of evoprune comes near them.
"""

import errno
import json
import stat
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evoprune.errors import RunFolderError
from evoprune.record.file_errors import cannot_be, damaged

MOST_JSON_BYTES = 2**28
"""Bytes of a JSON file. The largest are snapshots of steady-state searches: two for each gene of a genome."""

MOST_ROWS = 100_000
"""Rows of a parquet file: as many candidates as a generation can have (`search.population`)."""

MOST_TABLE_BYTES = 2**30
"""Bytes of all values of a parquet file, decoded."""

MOST_HEADER_BYTES = 2**24
"""Bytes of the header of a safetensors file."""

MOST_TENSORS = 2**16
"""Tensors in a safetensors file."""

ARROW_ERRORS = (OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError, pa.ArrowException)
"""The errors that a damaged table can raise; some of them when its own schema is decoded."""


def check_table(path: Path, columns: Sequence[str] | None, most_rows: int) -> None:
    """Raises DamagedFileError if a table is larger than a run's can be, before its values are decoded.

    A few bytes can stand for many equal values, so rows are counted, and texts by their sum over all rows.
    """
    check_size(path, MOST_TABLE_BYTES)
    try:
        with pq.ParquetFile(path) as file:
            described = file.metadata
            groups = [described.row_group(number) for number in range(described.num_row_groups)]
            rows = sum(group.num_rows for group in groups)
            decoded = sum(group.total_byte_size for group in groups)
            texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
        if max(rows, described.num_rows) > most_rows:
            raise damaged(path, f"it has {rows:,} rows, more than the {most_rows:,} of a run's table")
        if decoded <= MOST_TABLE_BYTES and rows:
            read = [name for name in texts if columns is None or name in columns]
            with pq.ParquetFile(path, read_dictionary=read, page_checksum_verification=True) as file:
                decoded = max([decoded, *(_text_bytes(file.read(columns=[name])) for name in read)])
    except RunFolderError:
        raise
    except ARROW_ERRORS as error:
        raise damaged(path, "no parquet table that can be read") from error
    if decoded > MOST_TABLE_BYTES:
        raise damaged(path, f"its values take more than {MOST_TABLE_BYTES:,} bytes")


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _text_bytes(table: pa.Table) -> int:
    """Bytes of a column of texts, written out; each distinct text is in memory once."""
    total = 0
    for chunk in table.column(0).chunks:
        texts = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
        lengths = pc.binary_length(texts)
        total += pc.sum(lengths if texts is chunk else lengths.take(chunk.indices)).as_py() or 0
    return total


def check_header(path: Path) -> None:
    """Raises DamagedFileError if the header of a safetensors file is larger than a run's can be."""
    whole = check_size(path, None)
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size + 8 > whole:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(size)) if size <= MOST_HEADER_BYTES else None
    except OSError as error:
        raise cannot_be("read", path, error) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise damaged(path, "no safetensors") from error
    if header is None:
        raise damaged(path, f"its header has more than {MOST_HEADER_BYTES:,} bytes")
    if not isinstance(header, dict) or len(header) > MOST_TENSORS:
        raise damaged(path, f"its header is none of at most {MOST_TENSORS:,} tensors")


def check_size(path: Path, most: int | None) -> int:
    """The bytes of a file. Raises RunFolderError if there is no regular file, DamagedFileError if it is too large."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        there = error if isinstance(error, OSError) else OSError(errno.EINVAL, str(error))
        raise cannot_be("read", path, there) from error
    if not stat.S_ISREG(found.st_mode):
        raise RunFolderError(f"{path} cannot be read: it is no regular file; put it back from a copy, or remove it")
    if most is not None and found.st_size > most:
        raise damaged(path, f"it has {found.st_size:,} bytes, more than {most:,}")
    return found.st_size
