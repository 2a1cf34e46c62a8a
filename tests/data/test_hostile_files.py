"""Files of data sets that lie, bomb or carry code: each is named in one line, nothing of it is run, no process ends."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from evoprune.data import datasets, mat
from evoprune.data.cifar import read_cifar_batch
from evoprune.data.datasets import cifar100, svhn
from evoprune.data.download import ChecksumError, extract
from evoprune.data.formats import read_idx, read_svhn
from evoprune.data.image_folder import image_folder
from evoprune.data.images import read_image
from evoprune.errors import DataError

DATA = np.arange(2 * 3072, dtype=np.int64).astype(np.uint8).reshape(2, 3072)

PREFIX = b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(K\x06K\x09e"
PREFIX += b"U\x04dataq\x06"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09"
DTYPE = b"cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
SHAPE = b"K\x02M\x00\x0c\x86"
BYTES = b"T" + struct.pack("<I", DATA.size) + DATA.tobytes()
SUFFIX = b"U\x09filenamesq\x0c]q\x0d(U\x05a.pngU\x05b.pngeu."


def published(
    reconstruct: bytes = RECONSTRUCT, shape: bytes = SHAPE, dtype: bytes = DTYPE, elements: bytes = BYTES
) -> bytes:
    """A batch as Python 2 wrote it, which the published files are."""
    return PREFIX + reconstruct + b"(K\x01" + shape + dtype + b"\x89" + elements + b"tb" + SUFFIX


def call(name: str, arguments: bytes = b")") -> bytes:
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + arguments + b"R"


def read(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    path.write_bytes(content)
    return read_cifar_batch(path)


def test_batches_as_python_2_and_3_write_them(tmp_path: Path) -> None:
    by_python_3 = pickle.dumps({"data": DATA, "fine_labels": [6, 9], "coarse_labels": [1, 2]}, protocol=2)
    older_numpy = by_python_3.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    for content in (published(), by_python_3, older_numpy):
        images, labels = read(tmp_path / "batch", content)
        assert images.dtype == np.uint8
        assert np.array_equal(images, DATA.reshape(2, 3, 32, 32))
        assert labels.tolist() == [6, 9]
    assert pickle.loads(published(), encoding="latin1")["data"].tolist() == DATA.tolist()


HOSTILE_BATCHES: dict[str, tuple[bytes, str]] = {
    "a module that runs when imported": (published(call("numpy.f2py.__main__.main")), "array of two dimensions"),
    "numpy's test set-up": (published(call("numpy.conftest.pytest_configure")), "array of two dimensions"),
    "os.system": (b"\x80\x02" + call("os.system", b"U\x0ctouch pwned!\x85") + b".", "must hold a dictionary"),
    "os.system beside the data": (
        published(elements=call("os.system", b"U\x0ctouch pwned!\x85")),
        "must hold its elements as bytes",
    ),
    "a class to build": (b"\x80\x02cos\n_exit\nK\x00\x85\x81.", "no operation NEWOBJ"),
    "an instance": (b"(K\x00ios\n_exit\n.", "no operation INST"),
    "objects as elements": (published(dtype=DTYPE.replace(b"u1", b"O8")), "must be of type u1"),
    "a type of another module": (published(dtype=DTYPE.replace(b"cnumpy\n", b"cnumpi\n")), "must be of type u1"),
    "another shape": (published(shape=b"K\x03M\x00\x0c\x86"), r"not \(3, 3072\) in 6144 bytes"),
    "a negative shape": (published(shape=b"J\xff\xff\xff\xffJ\x00\xe8\xff\xff\x86"), r"not \(-1, -6144\)"),
    "a huge shape": (published(shape=b"J\xff\xff\xff\x7fM\x00\x0c\x86"), r"not \(2147483647, 3072\)"),
    "three dimensions": (published(shape=b"K\x02K\x03M\x00\x04\x87"), "array of two dimensions"),
    "Fortran's order": (published().replace(b"\x89T", b"\x88T"), "array of two dimensions"),
    "fewer bytes": (published(elements=b"U\x05short"), "in 5 bytes"),
    "a length beyond the end": (published(elements=b"T\xff\xff\xff\x7f" + DATA.tobytes()), "ValueError: expected"),
    "a negative length": (published(elements=b"T\xff\xff\xff\xff"), "ValueError"),
    "cut": (published()[:-40], "ValueError"),
    "empty": (b"", "ValueError"),
    "letters for labels": (published().replace(b"K\x06K\x09e", b"U\x01ae"), "list of whole numbers"),
    "no labels": (published().replace(b"labelsq", b"lavelsq"), "list of whole numbers"),
    "no data": (b"\x80\x02}.", "dictionary with 'data'"),
    "a key that is deep": (b"\x80\x02})" + b"\x85" * 500_000 + b"K\x01s.", "dictionaries by strings"),
    "deep lists": (b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".", "must hold a dictionary"),
    "nothing to take": (b"\x80\x02R.", "takes more values"),
    "nothing to remember": (b"\x80\x02q\x01.", "IndexError"),
    "nothing remembered": (b"\x80\x02h\x01.", "KeyError"),
    "no mark": (b"\x80\x02]e.", "no mark"),
    "a state for a list": (b"\x80\x02]]b.", "not the result of a call"),
    "a list that is none": (b"\x80\x02}K\x01a.", "appends to what is not a list"),
    "an odd number of items": (b"\x80\x02}(U\x01au.", "ValueError: zip"),
    "operations without end": (b"\x80\x02" + b"N" * 2_100_000 + b".", "at most 2000000 operations"),
    "a persistent object": (b"\x80\x02U\x01aQ.", "no operation BINPERSID"),
    "an extension": (b"\x80\x02\x82\x01.", "no operation EXT1"),
    "a newer protocol": (pickle.dumps({"data": DATA, "labels": [1, 2]}, protocol=5), "no operation FRAME"),
}


@pytest.mark.parametrize("case", HOSTILE_BATCHES)
def test_a_hostile_batch_is_named_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    content, message = HOSTILE_BATCHES[case]
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "train").write_bytes(content)
    (folder / "test").write_bytes(published().replace(b"labels", b"labels"))
    loaded = set(sys.modules)
    with pytest.raises(DataError, match=rf"cifar-100-python/train is damaged \(.*{message}") as caught:
        cifar100(tmp_path)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-100-python"]
    assert not {name for name in set(sys.modules) - loaded if name.startswith(("numpy.f2py", "numpy.conftest"))}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_of_a_batch_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(published())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - DATA.size))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed"
    try:
        images, _ = read(path, bytes(content))
    except (ValueError, IndexError, KeyError):
        return
    assert images.shape[1:] == (3, 32, 32)


def archive(path: Path, add: Callable[[tarfile.TarFile], None]) -> str:
    """Writes a gzipped tar archive. Returns its MD5."""
    with tarfile.open(path, "w:gz") as content:
        add(content)
    return hashlib.md5(path.read_bytes()).hexdigest()


def member(name: str, content: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def cifar_source(md5: str) -> SimpleNamespace:
    return SimpleNamespace(
        base_folder="cifar-10-batches-py",
        filename="cifar-10-python.tar.gz",
        url="http://127.0.0.1:9/cifar-10-python.tar.gz",
        tgz_md5=md5,
        train_list=[("data_batch_1", "")],
        test_list=[("test_batch", "")],
    )


def test_an_archive_is_unpacked_only_with_its_checksum(tmp_path: Path) -> None:
    def add(content: tarfile.TarFile) -> None:
        for name in ("data_batch_1", "test_batch", "../../escaped", "readme.html"):
            content.addfile(*member(f"cifar-10-batches-py/{name}", published()))

    md5 = archive(tmp_path / "cifar-10-python.tar.gz", add)
    with pytest.raises(
        DataError, match=r"has another checksum .*it is not unpacked: remove it, and get http"
    ) as caught:
        datasets._cifar_data("cifar10", cifar_source("0" * 32), tmp_path, classes=10)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]
    data = datasets._cifar_data("cifar10", cifar_source(md5), tmp_path, classes=10)
    assert data.train.targets.tolist() == [6, 9]
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *("cifar-10-batches-py", "cifar-10-python.tar.gz", "data_batch_1", "test_batch")
    ]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "must be a plain file"),
        ({"type": tarfile.LNKTYPE, "linkname": "other"}, "must be a plain file"),
        ({"type": tarfile.FIFOTYPE}, "must be a plain file"),
        ({"type": tarfile.DIRTYPE}, "must be a plain file"),
    ],
)
def test_links_and_devices_in_an_archive_are_refused(tmp_path: Path, attributes: dict[str, Any], message: str) -> None:
    def add(content: tarfile.TarFile) -> None:
        content.addfile(*member("other", b"x"))
        content.addfile(*member("a/file", **attributes))

    md5 = archive(tmp_path / "a.tar.gz", add)
    with pytest.raises(OSError, match=message):
        extract(tmp_path / "a.tar.gz", md5, ["a/file"], tmp_path / "out")
    with pytest.raises(OSError, match="has no file missing"):
        extract(tmp_path / "a.tar.gz", md5, ["missing"], tmp_path / "out")
    with pytest.raises(ChecksumError):
        extract(tmp_path / "a.tar.gz", "0" * 32, ["other"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    extract(tmp_path / "a.tar.gz", md5, ["other"], tmp_path / "out")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir()] == [("other", b"x")]


def idx(dimensions: list[int], content: bytes, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(dimensions)]) + np.array(dimensions, ">u4").tobytes() + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx([2**32 - 1] * 3, b"12"), "more than any data set has"),
        (idx([3, 2, 2], bytes(11)), "the header says 12 bytes, the file has 11"),
        (idx([3, 2, 2], bytes(13)), "more than 12 bytes"),
        (idx([1] * 255, b"1"), "not an IDX file of unsigned bytes"),
        (idx([], b""), "not an IDX file"),
        (idx([2], bytes(8), kind=13), "not an IDX file"),
        (idx([5, 5], b"")[:9], "buffer is smaller"),
        (b"", "not an IDX file"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_with_false_headers(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(ValueError, match=message):
        read_idx(path)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(gzip.compress(idx([4], bytes(4 + 200_000_000)), 1))
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_idx(tmp_path / "file.gz")


IMAGES = np.arange(32 * 32 * 3 * 4, dtype=np.int64).astype(np.uint8).reshape(32, 32, 3, 4)
LABELS = np.array([[1], [2], [10], [3]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"X": np.array([[1], ["a"]], object), "y": LABELS}, "'X' must be a plain array of numbers"),
        ({"X": {"a": IMAGES}, "y": LABELS}, "'X' must be a plain array of numbers"),
        ({"X": IMAGES + 1j, "y": LABELS}, "'X' must be a plain array of numbers"),
        ({"X": IMAGES.astype(np.float64), "y": LABELS}, r"X must be \(32, 32, 3, n\) of uint8, not .* of float64"),
        ({"X": IMAGES[..., 0], "y": LABELS}, r"X must be .* not \(32, 32, 3\)"),
        ({"X": IMAGES, "y": np.array(["a", "b"])}, "'y' must be a plain array of numbers"),
        ({"X": IMAGES, "y": LABELS[:3]}, r"y must be \(4, 1\) labels from 0 to 10, not \(3, 1\)"),
        ({"X": IMAGES, "y": LABELS + 1}, "y must be"),
        ({"X": IMAGES, "y": LABELS + 0.5}, "y must be"),
        ({"y": LABELS}, "no array 'X'"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_mat_files_with_other_objects_than_arrays(
    tmp_path: Path, content: dict[str, Any], message: str, packed: bool
) -> None:
    savemat(tmp_path / "a.mat", content, do_compression=packed)
    with pytest.raises(ValueError, match=message):
        read_svhn(tmp_path / "a.mat")


def test_other_variables_of_a_mat_file_are_not_read(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"X": IMAGES, "y": LABELS, "z": np.array([{"a": 1}], object)}, do_compression=True)
    images, labels = read_svhn(tmp_path / "a.mat")
    assert np.array_equal(images, IMAGES.transpose(3, 2, 0, 1))
    assert labels.tolist() == [1, 2, 0, 3]


def test_a_mat_file_larger_than_any_data_set_when_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    savemat(tmp_path / "a.mat", {"X": IMAGES, "y": LABELS}, do_compression=True)
    read_svhn(tmp_path / "a.mat")
    monkeypatch.setattr(mat, "_MOST_BYTES", IMAGES.size)
    with pytest.raises(ValueError, match=f"more than {IMAGES.size} bytes once it is unpacked"):
        read_svhn(tmp_path / "a.mat")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_mat_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.mat"
    savemat(path, {"X": IMAGES[..., :1], "y": LABELS[:1]}, do_compression=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 260) | st.integers(len(content) - 150, len(content) - 1))
        content[min(place, len(content) - 1)] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        images, labels = read_svhn(path)
    except (ValueError, KeyError, struct.error, zlib.error):
        return
    assert images.shape == (len(labels), 3, 32, 32)


def test_damaged_mat_files_are_named(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"X": IMAGES, "y": LABELS})
    content = (tmp_path / "a.mat").read_bytes()
    for damaged in (
        b"",
        content[:100],
        content[:5000],
        b"\x00" * 200,
        b"\x89HDF\r\n\x1a\n" * 40,
        content[:128] + b"\xff" * 200,
    ):
        for name in ("train_32x32.mat", "test_32x32.mat"):
            (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataError, match=r"train_32x32.mat is damaged \(") as caught:
            svhn(tmp_path)
        assert "\n" not in str(caught.value)


def picture_folder(root: Path, name: str, content: bytes) -> Path:
    for part in ("train", "test"):
        (root / part / "cat").mkdir(parents=True)
        (root / part / "cat" / name).write_bytes(content)
    return root


def png(width: int, height: int) -> bytes:
    """A PNG file of one grey value, of any size, in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_an_image_bomb_is_named(tmp_path: Path) -> None:
    root = picture_folder(tmp_path, "bomb.png", png(30_000, 30_000))
    with pytest.raises(DataError, match=r"bomb\.png cannot be read as an image \(DecompressionBombError"):
        image_folder(root, 8)


def test_a_program_in_an_image_file_is_not_handed_to_ghostscript(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nquit\n%%EOF\n"
    assert Image.open(io.BytesIO(postscript)).format == "EPS"
    with pytest.raises(DataError, match=r"picture\.png cannot be read as an image \(UnidentifiedImageError"):
        image_folder(picture_folder(tmp_path, "picture.png", postscript), None)


def test_image_files_that_fail_when_they_are_read(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:45])
    for path in (tmp_path / "a.png", tmp_path / "missing.png", tmp_path):
        with pytest.raises(DataError, match="cannot be read as an image"):
            read_image(path, (1, 4, 4))
    os.symlink("loop.png", tmp_path / "loop.png")
    with pytest.raises(DataError, match=r"loop\.png cannot be read as an image"):
        read_image(tmp_path / "loop.png", (1, 4, 4))
