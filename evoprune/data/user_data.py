"""Data sets that the user's own callable returns: arrays, or a pair of PyTorch data sets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.data.checks import find_bad_pixels
from evoprune.data.datasets import LabelledImages, RawData
from evoprune.data.examples import read_examples
from evoprune.data.images import ImageArray
from evoprune.errors import DataError
from evoprune.plugins.user_code import import_callable, user_code

_ARRAYS = ("train images", "train labels", "test images", "test labels")
_MOST_CLASSES = 1_000_000
_COLOUR_CHANNELS = (3, 4)


def user_data(reference: str) -> RawData:
    """Calls `module:attribute` without arguments and takes the data set that it returns.

    That is either (train_images, train_labels, test_images, test_labels), arrays or tensors: images uint8, or floats
    that are taken as they are, (n, h, w) or (n, c, h, w), and labels as whole numbers (n,) from 0 up; or a pair
    (train, test) of sized data sets of (image, label), with such images or Pillow's.

    Raises:
        DataError: if the callable fails or returns anything else.
    """
    make = import_callable(reference, "data.dataset", DataError)
    place = f"data.dataset: {reference!r}"
    with user_code(f"{place} failed", "it is called without arguments", DataError):
        returned = make()
        values = list(returned) if isinstance(returned, Sequence) else []
        parts = [_to_array(value) for value in values] if len(values) == len(_ARRAYS) else []
    if len(values) == 2:
        parts = [*_pair(values[0], f"{place}: train"), *_pair(values[1], f"{place}: test")]
    if len(parts) != len(_ARRAYS):
        found = f"{len(returned)} values" if isinstance(returned, Sequence) else f"a {type(returned).__name__}"
        raise DataError(f"{place} must return {', '.join(_ARRAYS)}, or a pair of data sets, not {found}")
    train_images, train_labels, test_images, test_labels = parts
    train, test = (
        LabelledImages(_images(images, place, f"{name} images"), _labels(labels, place, f"{name} labels"))
        for images, labels, name in ((train_images, train_labels, "train"), (test_images, test_labels, "test"))
    )
    if not len(train.labels):
        raise DataError(f"{place} must return some train images; it returned none")
    return RawData(train, test, int(train.labels.max()) + 1)


def _pair(dataset: Any, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    images, labels = read_examples(dataset, name)
    if labels is None:
        raise DataError(f"{name} must have labels; return a data set of (image, label)")
    return images.numpy(), labels.numpy()


def _to_array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _labels(labels: NDArray[Any], place: str, name: str) -> NDArray[np.int64]:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{place}: {name} must be whole numbers (n,), not {labels.dtype} {labels.shape}; "
            "return the number of each image's class"
        )
    if len(labels) and labels.max() >= _MOST_CLASSES:
        raise DataError(
            f"{place}: {name} must be below {_MOST_CLASSES:,}, not {labels.max()}; number the classes 0, 1, 2, ..."
        )
    return labels.astype(np.int64)


def _images(images: NDArray[Any], place: str, name: str) -> ImageArray:
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] > images.shape[3] or _likely_channels_last(images.shape):
        raise DataError(
            f"{place}: {name} must be (n, h, w) or (n, c, h, w), not {images.shape}; "
            "bring channels forward with images.transpose(0, 3, 1, 2)"
        )
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"{place}: {name} must be uint8 or floats, not {images.dtype}; convert them")
    kept = ImageArray(torch.from_numpy(np.array(images, np.uint8 if images.dtype == np.uint8 else np.float32)))
    bad = find_bad_pixels(kept).not_finite
    if bad.count:
        raise DataError(
            f"{place}: {name} must be finite numbers, but {bad.count} of {len(kept)} have pixels that are NaN or "
            f"infinite (the first is image {bad.first}, counted from 0); repair or remove them"
        )
    return kept


def _likely_channels_last(shape: Sequence[int]) -> bool:
    """Whether (n, h, w, 3 or 4) is the better reading: as channels first, there would be 2 or no usual number."""
    return shape[3] in _COLOUR_CHANNELS and shape[1] not in (1, *_COLOUR_CHANNELS)
