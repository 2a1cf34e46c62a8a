"""Files that would take memory or time without end are refused before they are decoded."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evoprune.errors import RunFolderError
from evoprune.record import bounds, files
from evoprune.record.file_errors import DamagedFileError


def refuse_to_read(*_: Any, **__: Any) -> None:
    raise AssertionError("nothing is decoded of a file beyond its bounds")


@pytest.mark.parametrize("columns", [None, ["n"]])
def test_a_small_file_of_eight_million_rows(
    tmp_path: Path, columns: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gen-0000.parquet"
    pq.write_table(pa.table({"n": np.zeros(8_000_000, np.int64)}), path)
    assert path.stat().st_size < 1_000_000
    monkeypatch.setattr(pq, "read_table", refuse_to_read)
    monkeypatch.setattr(pq.ParquetFile, "read", refuse_to_read)
    monkeypatch.setattr(files, "_scan", refuse_to_read)
    with pytest.raises(
        DamagedFileError, match=r"gen-0000\.parquet is damaged: it has 8,000,000 rows, more than the 100,0"
    ):
        files.read_parquet([path], columns)


def test_as_many_rows_as_a_run_can_have_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": np.arange(bounds.MOST_ROWS)}), tmp_path / "a.parquet")
    assert files.read_parquet([tmp_path / "a.parquet"])["n"].tolist()[-1] == bounds.MOST_ROWS - 1


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_one_long_text_in_every_row(tmp_path: Path, kind: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 GB written out, a few KB in the file."""
    path = tmp_path / "a.parquet"
    once = pa.array(["x" * 200_000]).cast(kind)
    texts = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), once)
    pq.write_table(pa.table({"key": texts}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(pq, "read_table", refuse_to_read)
    with pytest.raises(DamagedFileError, match=r"its values take more than 1,073,741,824 bytes"):
        files.read_parquet([path])


def safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def test_a_header_beyond_bounds_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors(b" " * (bounds.MOST_HEADER_BYTES + 1)))
    monkeypatch.setattr(json, "loads", refuse_to_read)
    with pytest.raises(DamagedFileError, match=r"its header has more than 16,777,216 bytes"):
        files.read_tensors(path)


def test_many_empty_tensors(tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({str(number): empty for number in range(bounds.MOST_TENSORS + 1)}).encode()
    (tmp_path / "a.safetensors").write_bytes(safetensors(header))
    with pytest.raises(DamagedFileError, match="none of at most 65,536 tensors"):
        files.read_tensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("header", [b"", b"[]", b"{", b"null", b"[" * 100_000])
def test_a_header_that_describes_no_tensors(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(safetensors(header))
    with pytest.raises(DamagedFileError, match=r"a\.safetensors is damaged"):
        files.read_tensors(tmp_path / "a.safetensors")


def test_a_large_json_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(bounds.MOST_JSON_BYTES + 1)  # takes no space
    monkeypatch.setattr(Path, "read_bytes", refuse_to_read)
    with pytest.raises(DamagedFileError, match=r"it has 268,435,457 bytes, more than 268,435,456"):
        files.read_json(path)


@pytest.mark.parametrize("read", [files.read_json, lambda path: files.read_parquet([path]), files.read_tensors])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Any) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    os.mkfifo(tmp_path / "a")
    with pytest.raises(RunFolderError, match="it is no regular file"):
        read(tmp_path / "a")
