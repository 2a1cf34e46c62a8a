"""Data sets that the user's own callable returns: arrays, or a pair of PyTorch data sets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.data.checks import find_bad_pixels
from evoprune.data.dataset_images import DatasetImages, read_lazily
from evoprune.data.datasets import LabelledImages, RawData
from evoprune.data.examples import read_examples
from evoprune.data.images import ImageArray, Images
from evoprune.errors import DataError
from evoprune.plugins.user_code import import_callable, user_code
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, map_leaves

_ARRAYS = ("train images", "train labels", "test images", "test labels")
_COLOUR_CHANNELS = (3, 4)


def user_data(reference: str, task: Task) -> RawData:
    """Calls `module:attribute` without arguments and takes the data set that it returns.

    That is either (train_images, train_targets, test_images, test_targets), arrays or tensors: images uint8, or floats
    that are taken as they are, (n, h, w) or (n, c, h, w), and targets of the task, such as labels as whole numbers (n,)
    from 0 up; or a pair (train, test) of sized data sets of (image, target), with such images or Pillow's, or of
    images alone.

    Raises:
        DataError: if the callable fails or returns anything else.
    """
    make = import_callable(reference, "data.dataset", DataError)
    place = f"data.dataset: {reference!r}"
    with user_code(f"{place} failed", "it is called without arguments", DataError):
        returned = make()
        values = list(returned) if isinstance(returned, Sequence) else []
        parts: list[tuple[NDArray[Any] | DatasetImages, Tree]] = []
        if len(values) == len(_ARRAYS):
            parts = [(_to_array(values[i]), map_leaves(_to_tensor, values[i + 1])) for i in (0, 2)]
    if len(values) == 2:
        names = ("train", "test")
        parts = [_read(value, f"{place}: {name}", task) for value, name in zip(values, names, strict=True)]
    if not parts:
        found = f"{len(returned)} values" if isinstance(returned, Sequence) else f"a {type(returned).__name__}"
        raise DataError(f"{place} must return {', '.join(_ARRAYS)}, or a pair of data sets, not {found}")
    train, test = (
        LabelledImages(_images(images, place, f"{name} images"), targets)
        for (images, targets), name in zip(parts, ("train", "test"), strict=True)
    )
    if not len(train.images):
        raise DataError(f"{place} must return some train images; it returned none")
    return RawData(train, test, classes=None)


def _read(dataset: Any, name: str, task: Task) -> tuple[NDArray[Any] | DatasetImages, Tree]:
    lazily = read_lazily(dataset, name, task, as_floats=False)
    if lazily is not None:
        return lazily
    images, targets = read_examples(dataset, name, task)
    return images.numpy(), targets


def _to_array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _to_tensor(value: Any) -> Tensor:
    return value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(np.array(value))


def _images(images: NDArray[Any] | DatasetImages, place: str, name: str) -> Images:
    if isinstance(images, DatasetImages):
        _check_shape((len(images), *images.shape), place, name)
        return images
    if images.ndim == 3:
        images = images[:, None]
    _check_shape(images.shape, place, name)
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


def _check_shape(shape: tuple[int, ...], place: str, name: str) -> None:
    if len(shape) != 4 or shape[1] > shape[3] or _likely_channels_last(shape):
        raise DataError(
            f"{place}: {name} must be (n, h, w) or (n, c, h, w), not {shape}; "
            "bring channels forward with images.transpose(0, 3, 1, 2)"
        )


def _likely_channels_last(shape: Sequence[int]) -> bool:
    """Whether (n, h, w, 3 or 4) is the better reading: as channels first, there would be 2 or no usual number."""
    return shape[3] in _COLOUR_CHANNELS and shape[1] not in (1, *_COLOUR_CHANNELS)
