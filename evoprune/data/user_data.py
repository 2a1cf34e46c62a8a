"""Data sets that the user's own callable returns: arrays, or a pair of PyTorch data sets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evoprune.data.datasets import LabelledImages, RawData
from evoprune.data.images import ImageArray
from evoprune.errors import DataError
from evoprune.networks.plugin import describe, import_callable, working_directory_importable

_ARRAYS = ("train images", "train labels", "test images", "test labels")


def user_data(reference: str) -> RawData:
    """The data set that `module:callable`, called with no arguments, returns.

    Either (train_images, train_labels, test_images, test_labels), arrays or tensors: images uint8, or floats
    which are taken as they are, (n, h, w) or (n, c, h, w), and whole labels (n,) from 0 up; or a pair (train,
    test) of sized data sets of (image, label), images as said or PIL's.
    Raises DataError where the callable fails or returns anything else.
    """
    make = import_callable(reference, "data.dataset", DataError)
    place = f"data.dataset: {reference!r}"
    try:
        with working_directory_importable():
            returned = make()
            parts = _arrays(returned) if isinstance(returned, Sequence) else []
    except Exception as error:
        raise DataError(f"{place} failed ({describe(error)}); it is called with no arguments") from error
    if len(parts) != len(_ARRAYS):
        raise DataError(f"{place} must return {', '.join(_ARRAYS)}, or a pair of data sets, not {_what(returned)}")
    train_images, train_labels, test_images, test_labels = (
        _checked(array, place, name) for array, name in zip(parts, _ARRAYS, strict=True)
    )
    train = LabelledImages(ImageArray(torch.from_numpy(train_images)), train_labels)
    test = LabelledImages(ImageArray(torch.from_numpy(test_images)), test_labels)
    if not len(train_labels):
        raise DataError(f"{place} returned no training images; there must be some")
    return RawData(train, test, int(train_labels.max()) + 1)


def _what(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, Sequence) else f"a {type(value).__name__}"


def _arrays(returned: Sequence[Any]) -> list[NDArray[Any]]:
    if len(returned) == 2:
        return [array for part in returned for array in _of_dataset(part)]
    return [_to_array(value) for value in returned]


def _of_dataset(dataset: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    examples = [dataset[index] for index in range(len(dataset))]
    images = [_image_to_array(image) for image, _ in examples]
    return np.stack(images), np.array([int(label) for _, label in examples], np.int64)


def _image_to_array(image: Any) -> NDArray[Any]:
    array = _to_array(image)
    from_pil = not isinstance(image, Tensor | np.ndarray)
    return array.transpose(2, 0, 1) if from_pil and array.ndim == 3 else array  # (h, w, c) -> (c, h, w)


def _to_array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _checked(array: NDArray[Any], place: str, name: str) -> NDArray[Any]:
    return _checked_labels(array, place, name) if "labels" in name else _checked_images(array, place, name)


def _checked_labels(labels: NDArray[Any], place: str, name: str) -> NDArray[Any]:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{place}: {name} must be whole numbers (n,), not {labels.dtype} {labels.shape}")
    return labels.astype(np.int64)


def _checked_images(images: NDArray[Any], place: str, name: str) -> NDArray[Any]:
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] > images.shape[3]:
        raise DataError(f"{place}: {name} must be (n, h, w) or (n, c, h, w), not {images.shape}")
    if images.dtype == np.uint8:
        return np.array(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"{place}: {name} must be uint8 or floats, not {images.dtype}; convert them")
    if not np.isfinite(images).all():
        raise DataError(f"{place}: {name} must be finite numbers; some are not")
    return np.array(images, np.float32)
