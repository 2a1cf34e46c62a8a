"""The data of a run that are given as objects, not by a config."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from evoprune.data.dataset_images import read_lazily
from evoprune.data.examples import read_examples
from evoprune.data.images import ImageArray, Images
from evoprune.data.load import Data
from evoprune.data.splits import Split
from evoprune.errors import DataError
from evoprune.tasks.judging import task_call
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, example_count, select

Examples = Tensor | tuple[Tensor, Tree] | Dataset[Any] | Iterable[Any]
"""Images (n, c, h, w); images and targets; or a Dataset or DataLoader of them (`read_examples`)."""

_Part = tuple[Images, Tree]


@dataclass(frozen=True, eq=False)
class GivenData:
    """The images given to `evolve`, each with their targets, or with None.

    They are in memory, but for training images that take more than `HELD_BYTES`.
    """

    validation: _Part
    calibration: _Part
    train: _Part | None

    @classmethod
    def read(cls, validation: Examples, calibration: Examples, train: Examples | None, task: Task) -> "GivenData":
        """Raises DataError that names the first of them that cannot be used."""
        read = cls(
            _read(validation, "validation", task),
            _read(calibration, "calibration", task),
            None if train is None else _read_train(train, task),
        )
        if len(read.calibration[0]) < 2:
            raise DataError(
                f"calibration must have 2 images or more, for batch-norm statistics, not {len(read.calibration[0])}; "
                "give some hundreds of the training images"
            )
        for name, part in (("validation", read.validation), ("train", read.train)):
            if part is not None and not len(part[0]):
                raise DataError(f"{name} must have at least one image, not none")
        return read

    def with_targets_of(self, task: Task) -> "GivenData":
        """The data with targets as the task has them. Raises DataError if they cannot be that."""
        train = None if self.train is None else _checked(self.train, "train", task)
        return GivenData(
            _checked(self.validation, "validation", task), _checked(self.calibration, "calibration", task), train
        )

    def splits(self, outputs: int) -> Data:
        """The data of a run.

        Args:
            outputs: number of the network's outputs.

        Raises:
            DataError: if images differ in shape.
        """
        images, targets = self.validation
        shape = images.shape
        for name, (others, _) in (("calibration", self.calibration), ("train", self.train or self.validation)):
            if others.shape != shape:
                raise DataError(
                    f"{name} images must have the shape of the validation images, {shape}, not {others.shape}; "
                    "preprocess both alike"
                )
        none = images.select(torch.arange(0)), select(targets, slice(0))
        return Data(
            train=_split(*(self.train or none)),
            calibration=_split(*self.calibration),
            validation=_split(*self.validation),
            test=_split(*none),
            classes=outputs,
            image_shape=shape,
        )


def _read(source: Examples, name: str, task: Task) -> _Part:
    """Images (n, c, h, w), and targets as the task has them, or None."""
    images, targets = read_examples(source, name, task)
    if images.ndim != 4 or images.is_complex():
        raise DataError(
            f"{name} must be images (n, channels, h, w), or a Dataset or DataLoader of them, not of shape "
            f"{tuple(images.shape)} and {images.dtype}"
        )
    return ImageArray(images.float()), targets


def _read_train(source: Examples, task: Task) -> _Part:
    """As `_read`; the images of a data set that is too large for the memory are read on demand."""
    lazily = read_lazily(source, "train", task, as_floats=True)
    return _read(source, "train", task) if lazily is None else lazily


def _checked(part: _Part, name: str, task: Task) -> _Part:
    """The part with its targets as the task has them."""
    images, targets = part
    if targets is None or not task.reads_targets:
        return images, None
    with task_call(task, "checked_targets"):
        targets = task.checked_targets(targets, name)
    if example_count(targets) != len(images):
        raise DataError(
            f"{name} must have a label or target for each image, not {example_count(targets)} for {len(images)}"
        )
    return images, targets


def _split(images: Images, targets: Tree) -> Split:
    """Images without normalisation, because they are given as the network reads them."""
    channels = images.shape[0]
    return Split(images, targets, torch.zeros(channels), torch.ones(channels))
