"""Writing and reading of a run's files: whole or not at all, with checksums, and within bounds.

A file is written beside its place, synced, and renamed into it, so that a reader sees the old content or the new one,
whenever the writer is killed. Each format carries a checksum, which finds a file that was damaged later. Sizes are
checked before a file is read (`bounds`), since it may be anybody's. Nothing is a pickle.
"""

import contextlib
import hashlib
import io
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from evoprune.errors import RunFolderError
from evoprune.record.bounds import ARROW_ERRORS, MOST_JSON_BYTES, MOST_ROWS, check_header, check_size, check_table
from evoprune.record.file_errors import DamagedFileError as DamagedFileError
from evoprune.record.file_errors import cannot_be, damaged

if TYPE_CHECKING:
    import torch

TEMPORARY_SUFFIX = ".evoprune-tmp"

_CHECKSUM = "sha256"
_ARROW_DTYPES = {pa.binary(): pd.ArrowDtype(pa.binary()), pa.bool_(): pd.BooleanDtype()}

Schema = TypeVar("Schema", bound=BaseModel)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, whole or not at all. Makes its folder if it is missing. A link in its place is replaced.

    Raises:
        RunFolderError: the disk is full or the place cannot be written; names the remedy. The old file is then intact,
            and nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:  # exclusive: an existing file or link of this name is an error
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_be("written", path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8. Raises as `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Writes plain JSON data with a checksum: `{"sha256": ..., "content": value}`.

    Raises:
        RunFolderError: as `write_bytes`, and if it is larger than `read_json` would read.
        ValueError, TypeError: the value is not JSON: NaN, infinity, numpy numbers.
    """
    content = _json_text(value)
    if len(content) > MOST_JSON_BYTES - 200:
        raise RunFolderError(f"{path} cannot be written: it would have more than {MOST_JSON_BYTES:,} bytes")
    write_text(path, f'{{"{_CHECKSUM}":"{_sha256(content.encode())}","content":{content}}}\n')


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Writes a frame without its index, with checksums of each page and of all values. Raises as `write_bytes`."""
    buffer = io.BytesIO()
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**table.schema.metadata, _CHECKSUM: _table_sha256(table)})
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    write_bytes(path, buffer.getvalue())


def write_tensors(path: Path, tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str]) -> None:
    """Writes named tensors and their metadata as safetensors, with a checksum over both. Raises as `write_bytes`."""
    import torch
    from safetensors.torch import save

    # copies, because safetensors refuses tensors that share memory
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    checksum = {_CHECKSUM: _tensors_sha256(copies, metadata)}
    write_bytes(path, save(copies, metadata={**metadata, **checksum}))


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The bytes of a file.

    Args:
        path: the file.
        most: its largest size, if there is one.

    Raises:
        RunFolderError: there is no regular file, or it cannot be read.
        DamagedFileError: it is larger than `most`.
    """
    check_size(path, most)
    try:
        return path.read_bytes()
    except OSError as error:
        raise cannot_be("read", path, error) from error


def read_json(path: Path) -> Any:
    """The value that `write_json` stored, of whatever form.

    Raises:
        RunFolderError: the file cannot be read.
        DamagedFileError: it is no such file, or its checksum differs.
    """
    try:
        stored = json.loads(read_bytes(path, MOST_JSON_BYTES).decode())
        content = stored["content"]
        sound = stored[_CHECKSUM] == _sha256(_json_text(content).encode())
    except RunFolderError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise damaged(path, "no JSON with a checksum") from error
    if not sound:
        raise damaged(path, "its checksum differs")
    return content


def read_model(path: Path, schema: type[Schema]) -> Schema:
    """The value that `write_json` stored, validated.

    Raises:
        RunFolderError: the file cannot be read.
        DamagedFileError: as `read_json`, or the content does not fit the schema; names the first place that does not.
    """
    return validated(path, schema, _json_text(read_json(path)))


def validated(path: Path, schema: type[Schema], text: str) -> Schema:
    """A JSON text out of the file at `path`, validated. Raises DamagedFileError, which names the first wrong place."""
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        raise damaged(path, f"{place}: {first['msg']}") from error


def read_parquet(
    paths: Sequence[Path], columns: Sequence[str] | None = None, most_rows: int = MOST_ROWS
) -> pd.DataFrame:
    """The rows of parquet files of one schema, in the order of `paths`; binary columns as Arrow's, booleans nullable.

    Args:
        paths: at least one.
        columns: the columns to read; None: all.
        most_rows: the largest number of rows of one file.

    Raises:
        DamagedFileError: names the first file that cannot be read, or is larger than a run's can be.
    """
    for path in paths:
        check_table(path, columns, most_rows)
    try:
        if columns is None:
            table = pa.concat_tables([_whole_table(path) for path in paths], promote_options="default")
        else:
            table = _scan(paths, columns)
        frame: pd.DataFrame = table.to_pandas(types_mapper=_ARROW_DTYPES.get, ignore_metadata=True)
    except RunFolderError:
        raise
    except ARROW_ERRORS as error:
        for path in paths:
            _check_parquet(path, columns)
        raise damaged(paths[0].parent, "its tables do not fit each other") from error
    return frame


def read_tensors(path: Path) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    """The tensors (on the CPU) and metadata that `write_tensors` stored.

    Raises:
        RunFolderError: the file cannot be read.
        DamagedFileError: it is no safetensors file, is larger than a run's can be, or its checksum differs.
    """
    from safetensors import SafetensorError, safe_open

    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        checksum = metadata.pop(_CHECKSUM, None)
        sound = checksum == _tensors_sha256(tensors, metadata)
    except OSError as error:
        raise cannot_be("read", path, error) from error
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, MemoryError) as error:
        raise damaged(path, "no safetensors") from error
    if not sound:
        raise damaged(path, "its checksum differs")
    return tensors, metadata


def remove(paths: Sequence[Path]) -> None:
    """Removes files, in order, and syncs their folders. A link is removed itself; a missing file is no error.

    Raises:
        RunFolderError: a file cannot be removed.
    """
    folders = dict.fromkeys(path.parent for path in paths)
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_be("removed", path, error) from error
    for folder in folders:
        with contextlib.suppress(OSError):
            _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _scan(paths: Sequence[Path], columns: Sequence[str] | None) -> pa.Table:
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    parquet = ds.ParquetFileFormat(default_fragment_scan_options=checked)
    dataset = ds.dataset([os.fspath(path) for path in paths], format=parquet)
    return dataset.to_table(columns=None if columns is None else list(columns))


def _whole_table(path: Path) -> pa.Table:
    """All of one file, every value checked. Raises DamagedFileError."""
    try:
        table = pq.read_table(path, page_checksum_verification=True, partitioning=None, memory_map=False)
        checksum = (table.schema.metadata or {}).get(_CHECKSUM.encode())
        sound = checksum in (None, _table_sha256(table).encode())  # the first ones had none
    except ARROW_ERRORS as error:
        raise damaged(path, "no parquet table that can be read") from error
    if not sound:
        raise damaged(path, "its checksum differs")
    return table.replace_schema_metadata(None)


def _table_sha256(table: pa.Table) -> str:
    """A checksum of names and values, whatever types a reader gives them."""
    return _sha256(repr(table.to_pydict()).encode("utf-8", "surrogatepass"))


def _check_parquet(path: Path, columns: Sequence[str] | None) -> None:
    """Raises DamagedFileError if this file cannot be read by itself."""
    try:
        _scan([path], columns).to_pandas(types_mapper=_ARROW_DTYPES.get, ignore_metadata=True)
    except ARROW_ERRORS as error:
        raise damaged(path, "no parquet table that can be read") from error


def _json_text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _tensors_sha256(tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str]) -> str:
    import torch

    digest = hashlib.sha256(_json_text(dict(sorted(metadata.items()))).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(_json_text([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
