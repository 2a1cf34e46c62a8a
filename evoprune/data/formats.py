"""The file formats of the published data sets."""

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]
Labels = NDArray[np.int64]

_IDX_UNSIGNED_BYTE = 8


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of unsigned bytes in the IDX format of MNIST; gzipped where the name ends in .gz.

    Raises ValueError, EOFError or OSError where the file is damaged.
    """
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(content) < 4 or content[:3] != bytes([0, 0, _IDX_UNSIGNED_BYTE]):
        raise ValueError("is no IDX file of unsigned bytes")
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4).astype(int)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if values.size != shape.prod():
        raise ValueError(f"has {values.size} bytes where its header says {shape.prod()}")
    return values.reshape(shape)


def read_cifar_batch(path: Path) -> tuple[Pixels, Labels]:
    """Images uint8 (n, 3, 32, 32) and labels (n,) of one of the CIFAR "python version" batches.

    These files are pickles; `_ArraysOnly` reads them without running code of theirs.
    Raises pickle.UnpicklingError, ValueError, EOFError or OSError where the file is damaged.
    """
    with path.open("rb") as file:
        content = _ArraysOnly(file, encoding="latin1").load()
    names = ("labels", "fine_labels")
    labels = next((content[name] for name in names if name in content), None) if isinstance(content, dict) else None
    if labels is None or "data" not in content:
        raise ValueError("holds no 'data' with 'labels' or 'fine_labels'")
    return np.asarray(content["data"], np.uint8).reshape(-1, 3, 32, 32), np.asarray(labels, np.int64)


def read_svhn(path: Path) -> tuple[Pixels, Labels]:
    """Images uint8 (n, 3, 32, 32) and labels (n,) of a .mat file of SVHN's cropped digits.

    The digit 0, which the file calls 10, is class 0.
    Raises ValueError, KeyError or OSError where the file is damaged.
    """
    from scipy.io import loadmat

    content = loadmat(path)
    labels = content["y"].astype(np.int64).reshape(-1)
    images = content["X"].transpose(3, 2, 0, 1)  # (h, w, c, n) -> (n, c, h, w)
    return np.ascontiguousarray(images), np.where(labels == 10, 0, labels)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles plain containers and NumPy arrays; any other class or function in the file is refused.

    What an unpickler may do is what `find_class` gives it to call, so nothing else can run.
    """

    _NUMPY = frozenset({"_reconstruct", "_frombuffer", "ndarray", "dtype"})

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        numpy_array = module_name.partition(".")[0] == "numpy" and global_name in self._NUMPY
        if numpy_array or (module_name, global_name) == ("_codecs", "encode"):
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"must hold arrays only, not {module_name}.{global_name}")
