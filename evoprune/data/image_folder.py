"""Data sets that are folders of image files, one folder for each class.

torchvision's ImageFolder is not used: it counts hidden folders as classes and reads all images in colour.
"""

import math
from collections import Counter
from pathlib import Path

import torch

from evoprune.data.datasets import LabelledImages, RawData
from evoprune.data.images import ImageArray, ImageFiles, Images, is_grey, opened_image
from evoprune.errors import DataError, is_utf8
from evoprune.plugins.kinds import dataset

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
_MEMORY_LIMIT_BYTES = 2 << 30


@dataset("imagefolder")
def image_folder(root: Path | None, image_size: int | None, memory_limit_bytes: int = _MEMORY_LIMIT_BYTES) -> RawData:
    """Reads the images in root/train/CLASS/ and root/test/CLASS/ (or root/val/CLASS/).

    Labels are the positions of the classes in the order of their names. Hidden files and folders (`.name`) are skipped.
    Images are grey if every file is, otherwise in colour.

    Args:
        root: the folder; None is an error.
        image_size: the side in pixels that images are scaled and cropped to; None: all must have one size.
        memory_limit_bytes: a part that takes more is read from its files each time that images are asked for.

    Raises:
        DataError: if folders or images are missing, differ or are damaged.
    """
    if root is None:
        raise DataError("data.root must be set for imagefolder: a folder with train/CLASS/ and test/CLASS/; it is null")
    train_folder, test_folder = _part(root, "train"), _part(root, "test", "val")
    classes = _class_names(train_folder)
    unknown = sorted(set(_class_names(test_folder)) - set(classes))
    if unknown:
        raise DataError(
            f"data.root: the class folder {test_folder / unknown[0]} must have one of its name in {train_folder}; "
            "add or remove it"
        )
    train_files, test_files = _files(train_folder, classes), _files(test_folder, classes)
    _check_no_class_is_empty(train_folder, classes, train_files)
    shape = _common_shape([path for path, _ in (*train_files, *test_files)], image_size)
    train, test = (_labelled(root, files, shape, memory_limit_bytes) for files in (train_files, test_files))
    return RawData(train, test, len(classes), tuple(classes))


def _part(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"data.root: {root} has no folder {' or '.join(names)}; it must have train/CLASS/ and test/CLASS/")


def _class_names(folder: Path) -> list[str]:
    names = sorted(inside.name for inside in folder.iterdir() if inside.is_dir() and not inside.name.startswith("."))
    for name in names:
        if not is_utf8(name):
            raise DataError(f"data.root: the class folder {folder / name} must have a name in UTF-8; rename it")
    return names


def _files(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """All image files below the class folders with their labels, in the order of their names."""
    found = [(path, label) for label, name in enumerate(classes) for path in _image_files(folder / name)]
    if not found:
        raise DataError(f"data.root: {folder} has no images in class folders; put them into {folder}/CLASS/")
    return found


def _image_files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _SUFFIXES and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def _check_no_class_is_empty(folder: Path, classes: list[str], files: list[tuple[Path, int]]) -> None:
    """A class without training images would be an output of the network that is never right."""
    empty = sorted(set(range(len(classes))) - {label for _, label in files})
    if empty:
        raise DataError(
            f"data.root: the class folder {folder / classes[empty[0]]} must have images, but it has none; "
            "put some into it, or remove it"
        )


def _common_shape(paths: list[Path], image_size: int | None) -> tuple[int, int, int]:
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for path in paths:
        with opened_image(path) as image:
            size = image.size
            grey = grey and is_grey(image)
        if image_size is None and sizes and size not in sizes:
            (width, height), _ = sizes.most_common(1)[0]
            raise DataError(
                f"data.image_size: {path} has {size[0]}x{size[1]} pixels and others {width}x{height}; "
                "set data.image_size to the side in pixels that all are scaled and cropped to"
            )
        sizes[size] += 1
    width, height = (image_size, image_size) if image_size else sizes.most_common(1)[0][0]
    return (1 if grey else 3), height, width


def _labelled(
    root: Path, files: list[tuple[Path, int]], shape: tuple[int, int, int], memory_limit_bytes: int
) -> LabelledImages:
    paths, labels = zip(*files, strict=True)
    images: Images = ImageFiles(root, paths, shape)
    if len(paths) * math.prod(shape) <= memory_limit_bytes:
        images = ImageArray(images.read(torch.arange(len(paths))))
    return LabelledImages(images, torch.tensor(labels, dtype=torch.int64))
