"""The data of an experiment: reads a data set by name and cuts it into splits."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from evoprune.config.schema import DataConfig
from evoprune.data import datasets, image_folder
from evoprune.data.class_names import CLASS_NAMES
from evoprune.data.datasets import LabelledImages, RawData
from evoprune.data.images import Images, channel_statistics
from evoprune.data.input_format import GREY, RGB, InputFormat
from evoprune.data.splits import Indices, Split, stratified_split
from evoprune.data.user_data import user_data
from evoprune.errors import DataError
from evoprune.plugins.guard import is_own
from evoprune.plugins.kinds import DATASETS
from evoprune.tasks.classification import Classification
from evoprune.tasks.judging import task_call
from evoprune.tasks.task import Task
from evoprune.tasks.trees import example_count, select

__all__ = ["DATASETS", "Data", "Split", "datasets", "image_folder", "load_data"]

IMAGE_FOLDER = "imagefolder"
MNIST5K_TEST_IMAGES = 1000

KNOWN_SHAPES: Mapping[str, tuple[tuple[int, int, int], int]] = MappingProxyType(
    {
        "mnist5k": ((1, 28, 28), 10),
        "mnist": ((1, 28, 28), 10),
        "fashion-mnist": ((1, 28, 28), 10),
        "cifar10": ((3, 32, 32), 10),
        "cifar100": ((3, 32, 32), 100),
        "svhn": ((3, 32, 32), 10),
    }
)
"""Image shape (c, h, w) and number of classes of the published data sets."""


@dataclass(frozen=True, eq=False)
class Data:
    """A data set in its splits. image_shape: (c, h, w). classes: number of outputs that a network needs, if known.

    train, validation and test are disjoint; calibration is drawn from train. class_names: one per class, by label;
    None if there are none. colours: order of the channels, `RGB` or `grey`; None if unknown.
    """

    train: Split
    calibration: Split
    validation: Split
    test: Split
    classes: int | None
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None = None
    colours: str | None = None

    @property
    def input_format(self) -> InputFormat:
        """The input of a network that is trained on this data."""
        stored = self.train.images.read(torch.arange(0)).dtype
        return InputFormat(
            image_shape=self.image_shape,
            classes=self.classes or 1,
            mean=tuple(self.train.mean.tolist()),
            std=tuple(self.train.std.tolist()),
            value_range=(0.0, 1.0) if stored == torch.uint8 else None,
            colours=self.colours,
            class_names=self.class_names,
        )


def load_data(config: DataConfig, seed: int, task: Task | None = None) -> Data:
    """Reads the data set and cuts it into splits that depend on `seed` and the split sizes alone.

    Validation images are held out of the training images, with every class in proportion if the task has classes;
    calibration images are drawn from the remaining training images in the same way. All splits are normalised with mean
    and standard deviation of the training split. A data set without an official test set (mnist5k) gives 1,000 images
    for one.

    Args:
        config: names the data set and the sizes of its splits.
        seed: of the splits.
        task: whose targets the data set has; None: classification.

    Raises:
        DataError: if the data set is unknown, missing, damaged, or too small for its splits.
    """
    task = task or Classification()
    raw = _checked(config.dataset, _read(config, task), task)
    rng = np.random.default_rng(seed)
    test = raw.test
    left, labels = np.arange(len(raw.train.images)), _labels(raw.train, task)
    if test is None:
        chosen, left = stratified_split(labels, MNIST5K_TEST_IMAGES, rng)
        test = _select(raw.train, chosen)
    _check_sizes(config, len(left))
    drawn, rest = stratified_split(labels[left], config.validation, rng)
    validation, train = _select(raw.train, left[drawn]), _select(raw.train, left[rest])
    drawn, _ = stratified_split(_labels(train, task), config.calibration, rng)
    calibration = _select(train, drawn)
    mean, std = channel_statistics(train.images)
    train_split, calibration_split, validation_split, test_split = (
        Split(part.images, part.targets, mean, std) for part in (train, calibration, validation, test)
    )
    return Data(
        train_split,
        calibration_split,
        validation_split,
        test_split,
        raw.classes,
        train.images.shape,
        raw.class_names or CLASS_NAMES.get(config.dataset),
        _colours(config.dataset, train.images.shape[0]),
    )


def image_shape_and_classes(config: DataConfig, task: Task | None = None) -> tuple[tuple[int, int, int], int | None]:
    """The image shape (c, h, w) and the number of classes. Files of published data sets are not needed for it.

    Raises:
        DataError: if any other data set cannot be read.
    """
    if config.dataset in KNOWN_SHAPES:
        return KNOWN_SHAPES[config.dataset]
    task = task or Classification()
    raw = _checked(config.dataset, _read(config, task), task)
    return raw.train.images.shape, raw.classes


def _read(config: DataConfig, task: Task) -> RawData:
    root = Path(os.path.expanduser(config.root)) if config.root is not None else None
    if is_own(config.dataset):
        return user_data(config.dataset, task)
    read = DATASETS.find(config.dataset)
    raw: RawData = read(root, config.image_size) if config.dataset == IMAGE_FOLDER else read(root)
    return raw


def _colours(dataset: str, channels: int) -> str | None:
    """The order of the channels; unknown of a user's own data set."""
    return None if ":" in dataset else {1: GREY, 3: RGB}.get(channels)


def _select(part: LabelledImages, indices: Indices) -> LabelledImages:
    chosen = torch.from_numpy(indices)
    return LabelledImages(part.images.select(chosen), select(part.targets, chosen))


def _labels(part: LabelledImages, task: Task) -> Indices:
    """The class of each image, int64 (n,), so that splits have all classes in proportion; zeros if there is none."""
    classes = None if part.targets is None else task.classes_of(part.targets)
    labels: Indices = np.zeros(len(part.images), np.int64) if classes is None else classes.numpy()
    return labels


def _checked(name: str, raw: RawData, task: Task) -> RawData:
    """The data with targets of the task, after checks: they match the images, and all images have one shape."""
    parts = {"training": raw.train} | ({"test": raw.test} if raw.test is not None else {})
    for part_name, part in parts.items():
        if not len(part.images):
            raise DataError(f"data.dataset: {name} has no {part_name} images; there must be some")
        if part.targets is not None and len(part.images) != example_count(part.targets):
            raise DataError(
                f"data.dataset: {name} has {len(part.images)} {part_name} images but "
                f"{example_count(part.targets)} labels; there must be one label for each image"
            )
    if raw.test is not None and raw.test.images.shape != raw.train.images.shape:
        raise DataError(
            f"data.dataset: {name} has test images of {_shape(raw.test.images)} but training images of "
            f"{_shape(raw.train.images)}; they must have one shape"
        )
    train = _with_targets_of(task, raw.train, f"data.dataset: {name}: train")
    test = None if raw.test is None else _with_targets_of(task, raw.test, f"data.dataset: {name}: test")
    classes = raw.classes if isinstance(task, Classification) or not task.reads_targets else None
    if classes is None and train.targets is not None:
        classes = task.outputs_needed(train.targets)
    for part_name, labels in (("training", train.targets), ("test", None if test is None else test.targets)):
        if isinstance(task, Classification) and labels is not None:
            _check_labels(name, part_name, labels, classes or 0)
    return RawData(train, test, classes, raw.class_names)


def _with_targets_of(task: Task, part: LabelledImages, name: str) -> LabelledImages:
    if part.targets is None or not task.reads_targets:
        return LabelledImages(part.images, None)
    with task_call(task, "checked_targets"):
        return LabelledImages(part.images, task.checked_targets(part.targets, name))


def _check_labels(name: str, part_name: str, labels: Tensor, classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(
            f"data.dataset: {name} has a {part_name} image with label {int(wrong[0])}; "
            f"labels must be from 0 to {classes - 1}"
        )


def _shape(images: Images) -> str:
    return "x".join(map(str, images.shape))


def _check_sizes(config: DataConfig, available: int) -> None:
    if config.validation >= available:
        raise DataError(
            f"data.validation: {config.validation} images cannot be held out of the {available} training "
            f"images of {config.dataset}, because training needs some; take {available - 1} at most"
        )
    left = available - config.validation
    if config.calibration > left:
        raise DataError(
            f"data.calibration: {config.calibration} images cannot be drawn from the {left} that training keeps "
            f"after data.validation took {config.validation}; take {left} at most"
        )
