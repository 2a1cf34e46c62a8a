"""A reader of plain numeric arrays in MAT files of version 5 (MATLAB 5 to 7.2).

scipy.io.loadmat reads far more, and ends the process (a segmentation fault) on some damaged files.
MathWorks, "MAT-File Format", describes the format: elements of (type, number of bytes, content), nested for arrays.
"""

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evoprune.data.bounded_reading import read_whole

_MOST_BYTES = 1 << 30
"""Of a file, and of all that is compressed in it. SVHN's training images have 225 MB."""

_HEADER_BYTES, _TAG_BYTES = 128, 8
_LITTLE_ENDIAN_VERSION_5 = b"\x00\x01IM"
_MATRIX, _COMPRESSED = 14, 15
_UINT32, _INT32 = 6, 5
_ELEMENT_TYPES = {
    **{1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4"},
    **{7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"},
}
_NUMERIC_CLASSES = range(6, 16)  # double, single, int8, uint8, ..., uint64; below: cells, objects, text, sparse
_COMPLEX = 0x0800


@dataclass(frozen=True)
class _Element:
    kind: int
    content: memoryview


def read_mat(path: Path, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Reads the named arrays; all else in the file is skipped.

    Returns:
        By name, arrays of the type in which their elements are stored, in the shape that the file gives them.

    Raises:
        ValueError, KeyError, struct.error, zlib.error, OSError: if the file is damaged, lacks one of the arrays, or has
            something else of that name.
    """
    content = memoryview(read_whole(path, _MOST_BYTES))
    if bytes(content[_HEADER_BYTES - 4 : _HEADER_BYTES]) != _LITTLE_ENDIAN_VERSION_5:
        raise ValueError("not a MAT file of version 5")
    arrays: dict[str, NDArray[Any]] = {}
    left = _MOST_BYTES
    for element in _elements(content[_HEADER_BYTES:], padded=False):
        if element.kind == _COMPRESSED:
            unpacked = _unpacked(element.content, left)
            left -= len(unpacked)
            element, *_ = _elements(unpacked, padded=False)
        if element.kind == _MATRIX:
            flags, shape, name, *rest = _elements(element.content, padded=True)
            if (found := bytes(name.content).decode("latin-1")) in names:
                arrays[found] = _array(found, flags, shape, rest)
    if missing := sorted(set(names) - arrays.keys()):
        raise ValueError(f"the file has no array {missing[0]!r}")
    return arrays


def _elements(content: memoryview, padded: bool) -> Iterator[_Element]:
    """The elements of a file (not padded) or of an array (each padded to a multiple of 8 bytes)."""
    while len(content) >= _TAG_BYTES:
        kind, size = struct.unpack_from("<II", content)
        start = _TAG_BYTES
        if kind >> 16:  # a small element: type and size in two bytes each, and up to 4 bytes of content
            kind, size, start = kind & 0xFFFF, kind >> 16, 4
        if start + size > (_TAG_BYTES if start == 4 else len(content)):
            raise ValueError("an element is larger than what holds it")
        yield _Element(kind, content[start : start + size])
        end = max(start + size, _TAG_BYTES)
        content = content[end + (-end % 8 if padded else 0) :]


def _unpacked(packed: memoryview, most_bytes: int) -> memoryview:
    unpacking = zlib.decompressobj()
    content = unpacking.decompress(packed, most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"the file takes more than {_MOST_BYTES} bytes once it is unpacked")
    return memoryview(content)


def _array(name: str, flags: _Element, dimensions: _Element, rest: list[_Element]) -> NDArray[Any]:
    """The array of the elements of its flags, dimensions and numbers."""
    if flags.kind != _UINT32 or dimensions.kind != _INT32 or len(rest) != 1 or rest[0].kind not in _ELEMENT_TYPES:
        raise ValueError(f"{name!r} must be a plain array of numbers")
    [flag, _] = struct.unpack("<II", flags.content)
    if flag & 0xFF not in _NUMERIC_CLASSES or flag & _COMPLEX:
        raise ValueError(f"{name!r} must be a plain array of numbers, not of MATLAB's class {flag & 0xFF}")
    shape = np.frombuffer(dimensions.content, "<i4").tolist()
    values = np.frombuffer(rest[0].content, _ELEMENT_TYPES[rest[0].kind])
    if min(shape, default=0) < 0 or math.prod(shape) != len(values):
        raise ValueError(f"{name!r} has {len(values)} numbers, not those of shape {tuple(shape)}")
    return values.reshape(shape, order="F")
