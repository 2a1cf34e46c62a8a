"""Images and targets that users give as objects: tensors, arrays, data sets, or loaders of batches."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from evoprune.errors import DataError, type_and_first_line
from evoprune.plugins.user_code import user_code
from evoprune.tasks.classification import Classification
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, concatenated, leaves_of, map_leaves


def read_examples(source: Any, name: str, task: Task | None = None) -> tuple[Tensor, Tree]:
    """All images of a source, and their targets if it has any.

    Args:
        source: images (n, ...), as a tensor or an array; a pair of them and targets; a data set of images or of
            (image, target), Pillow's images included; or batches of images or of pairs, as a DataLoader yields them. A
            DataLoader that shuffles is read in the order of its data set, so that the examples are always the same.
        name: of the source, for messages: `validation`.
        task: picks images and targets out of batches; None: classification.

    Returns:
        Images (n, ...) of the source's type, and targets, a tree of tensors (n, ...), or None; on the CPU.

    Raises:
        DataError: if the source is none of these, holds nothing, has images of several shapes, or fails.
    """
    if is_array(source):
        return to_tensor(source), None
    if _is_pair(source):
        return to_tensor(source[0]), map_leaves(to_tensor, source[1])
    kind = type(source).__name__
    if isinstance(source, str | Mapping | nn.Module):
        raise DataError(
            f"{name} must be a pair of tensors (images, labels), or a Dataset or DataLoader, not of type {kind}"
        )
    task = task or Classification()
    with user_code(f"{name} cannot be read from the {kind}", "give (images, labels) as tensors", DataError):
        batches = [task.inputs_and_targets(batch) for batch in _batches(source)]
    if not batches or not all(is_array(images) and are_arrays(targets) for images, targets in batches):
        raise DataError(
            f"{name} must be a pair of tensors (images, labels), or a Dataset or DataLoader of such pairs, "
            f"not {'an empty ' if not batches and isinstance(source, Iterable) else 'of type '}{kind}"
        )
    images = [to_tensor(part) for part, _ in batches]
    shapes = sorted({tuple(part.shape[1:]) for part in images})
    if len(shapes) > 1:
        raise DataError(f"{name} must have images of one shape, not {shapes[0]} and {shapes[1]}; resize them")
    targets = [map_leaves(to_tensor, part) for _, part in batches if part is not None]
    try:
        return torch.cat(images), concatenated(targets) if len(targets) == len(images) else None
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"{name} must have targets of one shape ({type_and_first_line(error)}); pad or resize them"
        ) from error


def _batches(source: Any) -> Iterable[Any]:
    """Batches of a loader, a data set or any other iterable of them; nothing if it is none of these."""
    if isinstance(source, DataLoader):
        return _in_order(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, Sequence):
        return (batch_of_one(source[index]) for index in range(len(source)))
    return source if isinstance(source, Iterable) else ()


def _in_order(loader: "DataLoader[Any]") -> "DataLoader[Any]":
    """The loader; if it draws all of its data set in a random order, one without that order."""
    if not draws_all(loader):
        return loader
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        drop_last=loader.drop_last,
    )


def draws_all(loader: "DataLoader[Any]") -> bool:
    """Whether a loader draws each item of its data set once, in a random order."""
    sampler = loader.sampler
    return isinstance(sampler, RandomSampler) and not sampler.replacement and len(sampler) == len(sampler.data_source)


def batch_of_one(item: Any) -> Any:
    """An item of a data set as a batch: Pillow's images become arrays, with channels first, and numbers tensors."""
    return map_leaves(_as_batch, item)


def _as_batch(value: Any) -> Any:
    if is_array(value):
        return value[None]
    if isinstance(value, bool | int | float | np.generic):
        return torch.as_tensor(value)[None]
    if isinstance(value, Image):
        pixels = np.asarray(value)  # (h, w) or (h, w, c)
        return (pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels)[None]
    return value


def _is_pair(value: Any) -> bool:
    """Whether a value is a pair of images and targets; a list of two batches of images is none."""
    if not isinstance(value, tuple | list) or len(value) != 2 or not is_array(value[0]) or value[1] is None:
        return False
    return are_arrays(value[1]) and (isinstance(value, tuple) or getattr(value[1], "ndim", 1) == 1)


def are_arrays(tree: Any) -> bool:
    """Whether all leaves of a tree are arrays; None has none."""
    return all(is_array(leaf) for leaf in leaves_of(tree))


def is_array(value: Any) -> bool:
    """Whether a value is a tensor with numbers, or an array of them."""
    return (isinstance(value, Tensor) and not value.is_meta) or (
        isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    )


def to_tensor(value: Any) -> Tensor:
    """A tensor or an array as a tensor on the CPU, without gradient."""
    return torch.as_tensor(value if isinstance(value, Tensor) else np.ascontiguousarray(value)).detach().cpu()
