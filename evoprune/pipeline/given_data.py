"""The data of a run that are given as objects, not by a config."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from evoprune.criteria.importance_by_name import find_criterion
from evoprune.data.examples import read_examples
from evoprune.data.images import ImageArray
from evoprune.data.load import Data
from evoprune.data.splits import Split
from evoprune.errors import DataError

Examples = Tensor | tuple[Tensor, Tensor] | Dataset[Any] | Iterable[Any]
"""Images (n, c, h, w); images and labels (n,); or a Dataset or DataLoader of them (`read_examples`)."""


@dataclass(frozen=True, eq=False)
class GivenData:
    """The images and labels given to `evolve`, read and of one shape.

    images, labels: of validation. train: images and labels, or None.
    """

    images: Tensor
    labels: Tensor
    calibration_images: Tensor
    calibration_labels: Tensor | None
    train: tuple[Tensor, Tensor] | None

    @classmethod
    def read(cls, validation: Examples, calibration: Examples, train: Examples | None) -> "GivenData":
        """Raises DataError that names the first of them that cannot be used."""
        images, labels = _labelled(validation, "validation")
        calibration_images, calibration_labels = read_examples(calibration, "calibration")
        if calibration_images.ndim != 4:
            raise DataError(
                "calibration must be images (n, channels, h, w), or a Dataset or DataLoader of them, not of shape "
                f"{tuple(calibration_images.shape)}"
            )
        if len(calibration_images) < 2:
            raise DataError(
                f"calibration must have 2 images or more, for batch-norm statistics, not {len(calibration_images)}; "
                "give some hundreds of the training images"
            )
        if calibration_labels is not None:
            calibration_labels = _checked_labels(calibration_images, calibration_labels, "calibration")
        training = None if train is None else _labelled(train, "train")
        return cls(images, labels, calibration_images, calibration_labels, training)

    def splits(self, classes: int, criteria: Iterable[str]) -> Data:
        """The data of a run.

        Args:
            classes: number of the network's logits.
            criteria: those that the rounds of the search use.

        Raises:
            DataError: if images differ in shape, or a criterion reads calibration labels and there are none.
        """
        for criterion in criteria if self.calibration_labels is None else ():
            if criterion != "auto" and find_criterion(criterion).needs_labels:
                raise DataError(
                    f"calibration must have labels, because search.criterion is {criterion}, not images alone; "
                    "give (images, labels) or a DataLoader of them, or take l1"
                )
        shape = tuple(self.images.shape[1:])
        for name, images in (("calibration", self.calibration_images), ("train", (self.train or (self.images,))[0])):
            if images.shape[1:] != shape:
                raise DataError(
                    f"{name} images must have the shape of the validation images, {shape}, not "
                    f"{tuple(images.shape[1:])}; preprocess both alike"
                )
        none = self.images[:0], self.labels[:0]
        unlabelled = torch.zeros(len(self.calibration_images), dtype=torch.int64)
        channels, height, width = self.images.shape[1:]
        return Data(
            train=_split(*(self.train or none)),
            calibration=_split(
                self.calibration_images, unlabelled if self.calibration_labels is None else self.calibration_labels
            ),
            validation=_split(self.images, self.labels),
            test=_split(*none),
            classes=classes,
            image_shape=(channels, height, width),
        )


def _labelled(source: Examples, name: str) -> tuple[Tensor, Tensor]:
    """Images (n, c, h, w), at least one, and labels (n,)."""
    images, labels = read_examples(source, name)
    if labels is None:
        raise DataError(
            f"{name} must be a pair of tensors (images, labels), or a Dataset or DataLoader of such pairs, "
            "not images alone"
        )
    labels = _checked_labels(images, labels, name)
    if not len(images):
        raise DataError(f"{name} must have at least one image, not none")
    return images, labels


def _checked_labels(images: Tensor, labels: Tensor, name: str) -> Tensor:
    """The labels as int64 (n,), one for each of the images (n, c, h, w)."""
    whole = not (labels.is_floating_point() or labels.is_complex())
    if images.ndim != 4 or images.is_complex() or labels.ndim != 1 or len(images) != len(labels) or not whole:
        raise DataError(
            f"{name} must be images (n, channels, h, w) and whole labels (n,), not shapes {tuple(images.shape)} "
            f"of {images.dtype} and {tuple(labels.shape)} of {labels.dtype}"
        )
    return labels.long()


def _split(images: Tensor, labels: Tensor) -> Split:
    """Images without normalisation, because they are given as the network reads them."""
    channels = images.shape[1]
    return Split(ImageArray(images.float()), labels, torch.zeros(channels), torch.ones(channels))
