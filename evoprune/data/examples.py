"""Images and labels that users give as objects: tensors, arrays, data sets, or loaders of batches."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from evoprune.errors import DataError
from evoprune.plugins.user_code import user_code


def read_examples(source: Any, name: str) -> tuple[Tensor, Tensor | None]:
    """All images of a source, and their labels if it has any.

    Args:
        source: images (n, ...), as a tensor or an array; a pair of them and labels (n,); a data set of images or of
            (image, label), Pillow's images included; or batches of images or of pairs, as a DataLoader yields them. A
            DataLoader that shuffles is read in the order of its data set, so that the examples are always the same.
        name: of the source, for messages: `validation`.

    Returns:
        Images (n, ...) of the source's type, and labels (n,) or None, on the CPU.

    Raises:
        DataError: if the source is none of these, holds nothing, has images of several shapes, or fails.
    """
    if _is_array(source):
        return _tensor(source), None
    if _is_labelled(source):
        return _tensor(source[0]), _tensor(source[1])
    kind = type(source).__name__
    if isinstance(source, str | Mapping | nn.Module):
        raise DataError(
            f"{name} must be a pair of tensors (images, labels), or a Dataset or DataLoader, not of type {kind}"
        )
    with user_code(f"{name} cannot be read from the {kind}", "give (images, labels) as tensors", DataError):
        batches = list(_batches(source))
    if not batches or not all(_is_array(batch) or _is_labelled(batch) for batch in batches):
        raise DataError(
            f"{name} must be a pair of tensors (images, labels), or a Dataset or DataLoader of such pairs, "
            f"not {'an empty ' if not batches and isinstance(source, Iterable) else 'of type '}{kind}"
        )
    images = [_tensor(batch if _is_array(batch) else batch[0]) for batch in batches]
    shapes = sorted({tuple(part.shape[1:]) for part in images})
    if len(shapes) > 1:
        raise DataError(f"{name} must have images of one shape, not {shapes[0]} and {shapes[1]}; resize them")
    labels = [_tensor(batch[1]) for batch in batches if not _is_array(batch)]
    return torch.cat(images), torch.cat(labels) if len(labels) == len(images) else None


def _batches(source: Any) -> Iterable[Any]:
    """Batches of a loader, a data set or any other iterable of them; nothing if it is none of these."""
    if isinstance(source, DataLoader):
        return _in_order(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, Sequence):
        return (_batch_of_one(source[index]) for index in range(len(source)))
    return source if isinstance(source, Iterable) else ()


def _in_order(loader: "DataLoader[Any]") -> "DataLoader[Any]":
    """The loader; if it draws all of its data set in a random order, one without that order."""
    sampler = loader.sampler
    if not isinstance(sampler, RandomSampler) or sampler.replacement or len(sampler) != len(sampler.data_source):
        return loader
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        drop_last=loader.drop_last,
    )


def _batch_of_one(item: Any) -> Any:
    """An item of a data set as a batch."""
    if isinstance(item, tuple | list) and len(item) == 2:
        return _image(item[0])[None], np.array([int(item[1])], np.int64)
    return _image(item)[None]


def _image(image: Any) -> Any:
    """An image as a tensor or an array, with its channels first."""
    if _is_array(image):
        return image
    pixels = np.asarray(image)  # Pillow's images are (h, w) or (h, w, c)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels


def _is_labelled(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_array, value)) and value[1].ndim == 1


def _is_array(value: Any) -> bool:
    return (isinstance(value, Tensor) and not value.is_meta) or (
        isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    )


def _tensor(value: Any) -> Tensor:
    return torch.as_tensor(value if isinstance(value, Tensor) else np.ascontiguousarray(value)).detach().cpu()
