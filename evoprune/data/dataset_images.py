"""Images of a user's data set that do not fit in memory: read item by item, each time that they are asked for."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from evoprune.data.examples import are_arrays, batch_of_one, draws_all, is_array, to_tensor
from evoprune.data.images import tensor_identity
from evoprune.errors import DataError, type_and_first_line
from evoprune.networks.seeding import global_seed
from evoprune.plugins.user_code import user_code
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, concatenated, map_leaves

HELD_BYTES = 2 << 30
"""Images of a data set are held in memory if they take at most this many bytes."""

_CHUNK = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ItemReader:
    """The items of a data set with `__getitem__` and `__len__`, in batches.

    Attributes:
        dataset: of the user's.
        collate: makes a batch of a list of items.
        workers: number of processes that read ahead, as in the user's DataLoader.
        task: picks images and targets out of a batch; targets that it does not read are left out.
        name: of the data, for messages.
        as_floats: whether images become float32; otherwise uint8 stays.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any]
    workers: int
    task: Task
    name: str
    as_floats: bool

    def batches(self, positions: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tree]]:
        """Images (b, c, h, w) and targets of the items at each of these positions int64 (b,).

        Raises:
            DataError: the data set fails, or gives something else than images.
        """
        loader = DataLoader(
            self.dataset,
            batch_sampler=[part.tolist() for part in positions],
            collate_fn=self.collate,
            num_workers=self.workers,
        )
        reading = iter(loader)
        place = f"{self.name} cannot be read from the {type(self.dataset).__name__}"
        for _ in positions:
            with user_code(place, "repair the data set, or give (images, labels) as tensors", DataError):
                images, targets = self.task.inputs_and_targets(next(reading))
            yield self._checked(images, targets)

    def _checked(self, images: Any, targets: Any) -> tuple[Tensor, Tree]:
        if not is_array(images) or not are_arrays(targets):
            raise DataError(f"{self.name} must give images and targets as tensors, not a {type(images).__name__}")
        pixels = to_tensor(images)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels
        if pixels.ndim != 4 or pixels.is_complex():
            raise DataError(f"{self.name} must be images (n, channels, h, w), not of shape {tuple(pixels.shape)}")
        keeps = pixels.dtype == torch.uint8 and not self.as_floats
        found = None
        if targets is not None and self.task.reads_targets:
            found = self.task.checked_targets(map_leaves(to_tensor, targets), self.name)
        return pixels if keeps else pixels.float(), found


@dataclass(frozen=True, eq=False)
class DatasetImages:
    """Images of a data set that are read each time that they are asked for (`data.images.Images`).

    Attributes:
        reader: reads them.
        positions: of the images in the data set, int64 (n,).
        shape: (c, h, w).
        dtype: uint8 or float32.
        digest: of all images of the data set, as they were read first.
        same_every_time: whether an image is the same each time, not augmented by the data set.
    """

    reader: ItemReader
    positions: Tensor
    shape: tuple[int, int, int]
    dtype: torch.dtype
    digest: bytes
    same_every_time: bool

    @property
    def held(self) -> bool:
        """False: reading takes time."""
        return False

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, indices: Tensor) -> Tensor:
        """As `Images.read`. Raises DataError if the data set fails, or an image has another shape than the first."""
        if not len(indices):
            return torch.empty(0, *self.shape, dtype=self.dtype)
        [(images, _)] = self.read_ahead([indices])
        return images

    def read_ahead(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tree]]:
        """The images and targets at each of these positions int64 (b,), in turn.

        The processes of the user's DataLoader, if it has any, read the next ones meanwhile.
        """
        for images, targets in self.reader.batches([self.positions[indices] for indices in batches]):
            if images.shape[1:] != self.shape:
                raise _other_shape(self.reader.name, self.shape, tuple(images.shape[1:]))
            yield images.to(self.dtype), targets

    def select(self, indices: Tensor) -> "DatasetImages":
        """As `Images.select`."""
        return replace(self, positions=self.positions[indices])

    def identity(self) -> Iterator[bytes]:
        """The hash of all images of the data set as they were read first, and the positions of these."""
        yield self.digest
        yield from tensor_identity(self.positions)


def read_lazily(source: Any, name: str, task: Task, *, as_floats: bool) -> tuple[DatasetImages, Tree] | None:
    """Images that are read on demand, and their targets, which are held in memory.

    All images are read once, to check them and to hash them; torch's global generator is seeded meanwhile, so that a
    data set that augments its images with it gives the same ones in every process.

    Args:
        source: a data set with `__getitem__` and `__len__`, or a DataLoader of one that draws each item once.
        name: of the source, for messages: `train`.
        task: picks images and targets out of batches.
        as_floats: whether images become float32; otherwise uint8 stays.

    Returns:
        Images and a tree of targets (n, ...) or None. None for another source, or if the images take at most
        HELD_BYTES.

    Raises:
        DataError: the data set fails, or an image has another shape than the first one, or a pixel is not finite.
    """
    found = _reader_of(source, name, task, as_floats)
    if found is None or not len(found[1]):
        return None
    reader, positions = found
    with global_seed(0):
        [(first, _)] = reader.batches([positions[:1]])
    if first.nbytes * len(positions) <= HELD_BYTES:
        return None
    with global_seed(1):
        [(again, _)] = reader.batches([positions[:1]])
    channels, height, width = first.shape[1:]
    shape = channels, height, width
    logger.warning(
        "the %s images take %.1f GiB, so they are not held in memory but read each time that they are needed",
        *(name, first.nbytes * len(positions) / 2**30),
    )
    digest, targets = hashlib.sha256(f"{first.dtype} {shape}".encode()), []
    with global_seed(0):
        for images, part in reader.batches(positions.split(_CHUNK)):
            if images.shape[1:] != shape:
                raise _other_shape(name, shape, tuple(images.shape[1:]))
            if not images.isfinite().all():
                raise DataError(f"{name} images must be finite numbers, but some are NaN or infinite; repair them")
            digest.update(images.to(first.dtype).contiguous().numpy().data)
            targets.append(part)
    lazily = DatasetImages(reader, positions, shape, first.dtype, digest.digest(), torch.equal(first, again))
    joined = _joined(targets, name)
    if joined is None and not lazily.same_every_time:
        raise DataError(
            f"{name} images without targets must be the same each time that they are read, because answers stand in "
            "for targets; leave out the data set's augmentation"
        )
    return lazily, joined


def _reader_of(source: Any, name: str, task: Task, as_floats: bool) -> tuple[ItemReader, Tensor] | None:
    """The reader of a data set, and the positions of its items; None for a source that has no items by position."""
    if isinstance(source, DataLoader):
        if not draws_all(source) and not isinstance(source.sampler, SequentialSampler):
            return None
        dataset: Any = source.dataset
        if not _is_map(dataset) or source.batch_size is None:
            return None
        count = len(dataset)
        if source.drop_last:
            count -= count % source.batch_size
        reader = ItemReader(dataset, source.collate_fn, source.num_workers, task, name, as_floats)
        return reader, torch.arange(count)
    if not _is_map(source):
        return None
    return ItemReader(source, _collated, 0, task, name, as_floats), torch.arange(len(source))


def _is_map(source: Any) -> bool:
    indexed = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    return indexed and not is_array(source) and not isinstance(source, Sequence | str | dict)


def _collated(items: list[Any]) -> Any:
    """Items of a data set as one batch."""
    return concatenated([map_leaves(_tensor_or_same, batch_of_one(item)) for item in items])


def _tensor_or_same(value: Any) -> Any:
    return to_tensor(value) if is_array(value) else value


def _joined(targets: Sequence[Tree], name: str) -> Tree:
    if any(part is None for part in targets):
        return None
    try:
        return concatenated(targets)
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"{name} must have targets of one shape ({type_and_first_line(error)}); pad or resize them"
        ) from error


def _other_shape(name: str, shape: tuple[int, ...], other: tuple[int, ...]) -> DataError:
    return DataError(f"{name} must have images of one shape, not {shape} and {other}; resize them")
