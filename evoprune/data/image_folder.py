"""Data sets that are folders of image files, one folder a class."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evoprune.data.datasets import LabelledImages, RawData
from evoprune.data.images import ImageArray, ImageFiles, Images, damaged_image
from evoprune.errors import DataError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
_GREY_MODES = frozenset({"1", "L"})
_MEMORY_LIMIT_BYTES = 2 << 30


def image_folder(root: Path | None, image_size: int | None, memory_limit_bytes: int = _MEMORY_LIMIT_BYTES) -> RawData:
    """The images in root/train/CLASS/ and root/test/CLASS/ (or root/val/CLASS/).

    image_size: the side that images are scaled and cropped to; None: all must have one size.
    Images are grey where every file is, else colour. A part that takes more than memory_limit_bytes is read
    from the files again and again.
    Raises DataError where folders or images are missing, differ or are damaged.
    """
    if root is None:
        raise DataError("data.root must be set for imagefolder: a folder with train/CLASS/ and test/CLASS/; it is null")
    train_folder, test_folder = _part(root, "train"), _part(root, "test", "val")
    classes = sorted(folder.name for folder in train_folder.iterdir() if folder.is_dir())
    unknown = sorted({folder.name for folder in test_folder.iterdir() if folder.is_dir()} - set(classes))
    if unknown:
        raise DataError(
            f"data.root: {test_folder / unknown[0]} is a class that {train_folder} has not; add or remove it"
        )
    train_files, test_files = _files(train_folder, classes), _files(test_folder, classes)
    shape = _common_shape([path for path, _ in (*train_files, *test_files)], image_size)
    train, test = (_labelled(root, files, shape, memory_limit_bytes) for files in (train_files, test_files))
    return RawData(train, test, len(classes), tuple(classes))


def _part(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"data.root: {root} has no folder {' or '.join(names)}; it must have train/CLASS/ and test/CLASS/")


def _files(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """All image files below the class folders with their labels, in the order of their names."""
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise DataError(f"data.root: {folder} has no images in folders of classes; put them into {folder}/CLASS/")
    return found


def _common_shape(paths: list[Path], image_size: int | None) -> tuple[int, int, int]:
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for path in paths:
        try:
            with Image.open(path) as image:
                size = image.size
                grey = grey and image.mode in _GREY_MODES
        except Exception as error:
            raise damaged_image(path, error) from error
        if image_size is None and sizes and size not in sizes:
            (width, height), _ = sizes.most_common(1)[0]
            raise DataError(
                f"data.image_size: {path} has {size[0]}x{size[1]} pixels and others {width}x{height}; "
                "set data.image_size to the side that all are to be brought to"
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
    return LabelledImages(images, np.array(labels, np.int64))
