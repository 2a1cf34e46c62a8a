"""Readers of the published data sets' file formats: IDX (MNIST) and MAT (SVHN).

They stand in place of torchvision's data sets, which read IDX files only after they are unpacked (Debian's are
gzipped), read MAT files with scipy (see `mat`), and do not bound the memory that a file takes.
"""

import gzip
import math
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from evoprune.data.bounded_reading import read_at_most
from evoprune.data.mat import read_mat

Pixels = NDArray[Any]
Labels = NDArray[np.int64]

_MOST_BYTES = 1 << 30
"""More than any of the published files has in memory: MNIST's training images have 47 MB."""

_IDX_UNSIGNED_BYTE = 8
_IDX_MOST_DIMENSIONS = 3


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Reads an array of unsigned bytes in the IDX format of MNIST.

    Args:
        path: the file is gzipped if its name ends in `.gz`.

    Returns:
        uint8, of the one to three dimensions that the header says.

    Raises:
        ValueError, EOFError, OSError: if the file is damaged or its size does not match its header.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
        file = cast(IO[bytes], opened)
        magic = file.read(4)
        dimensions = magic[3] if len(magic) == 4 else 0
        if magic[:3] != bytes([0, 0, _IDX_UNSIGNED_BYTE]) or not 1 <= dimensions <= _IDX_MOST_DIMENSIONS:
            raise ValueError("not an IDX file of unsigned bytes")
        shape = [int(size) for size in np.frombuffer(file.read(4 * dimensions), ">u4", count=dimensions)]
        expected = math.prod(shape)
        if expected > _MOST_BYTES:
            raise ValueError(f"the header says {expected} bytes, more than any data set has")
        values = read_at_most(file, expected)
    if len(values) != expected:
        raise ValueError(f"the header says {expected} bytes, the file has {len(values)}")
    return np.frombuffer(values, np.uint8).reshape(shape)


def read_svhn(path: Path) -> tuple[Pixels, Labels]:
    """Reads a .mat file of SVHN's cropped digits.

    Returns:
        Images uint8 (n, 3, 32, 32) and labels int64 (n,). The digit 0, which the file calls 10, is class 0.

    Raises:
        ValueError, OSError, struct.error, zlib.error: if the file is damaged or holds anything but such arrays.
    """
    content = read_mat(path, ("X", "y"))
    images, labels = content["X"], content["y"]
    if images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3) or images.ndim != 4:
        raise ValueError(f"X must be (32, 32, 3, n) of uint8, not {images.shape} of {images.dtype}")
    if labels.shape != (images.shape[3], 1) or not np.isin(labels, range(11)).all():
        raise ValueError(f"y must be ({images.shape[3]}, 1) labels from 0 to 10, not {labels.shape}, or has others")
    digits = labels[:, 0].astype(np.int64)
    pixels = np.ascontiguousarray(images.transpose(3, 2, 0, 1))  # (h, w, c, n) -> (n, c, h, w)
    return pixels, np.where(digits == 10, 0, digits)
