"""Faults in the images and labels of a split from which nothing can be learned or measured."""

from dataclasses import dataclass

import torch
from torch import Tensor

from evoprune.data.images import Images, chunks_to_inspect
from evoprune.data.splits import Split
from evoprune.errors import DataError

_NAMED_CLASSES = 5


@dataclass(frozen=True)
class FoundImages:
    """Images with a fault. count: their number. first: the position of the first one, None if there is none."""

    count: int
    first: int | None


@dataclass(frozen=True)
class BadPixels:
    """Images with faulty pixels.

    not_finite: images with a pixel that is NaN or infinite. constant: images of which every channel has one value only.
    """

    not_finite: FoundImages
    constant: FoundImages


def find_bad_pixels(images: Images) -> BadPixels:
    """Looks for pixels that are NaN or infinite and for constant images.

    Args:
        images: of shape (c, h, w). Of more than 5,000 image files, 5,000 evenly spaced ones are read.
    """
    positions, not_finite, constant = [], [], []
    for chunk in chunks_to_inspect(images):
        pixels = images.read(chunk).flatten(2)  # (b, c, h * w)
        positions.append(chunk)
        not_finite.append(~pixels.isfinite().all(2).all(1))
        constant.append((pixels == pixels[:, :, :1]).all(2).all(1) & (pixels.shape[2] > 1))
    if not positions:
        return BadPixels(FoundImages(0, None), FoundImages(0, None))
    inspected = torch.cat(positions)
    return BadPixels(_found(inspected, torch.cat(not_finite)), _found(inspected, torch.cat(constant)))


def classes_without_images(labels: Tensor, classes: int) -> tuple[int, ...]:
    """The classes in 0..classes-1 that no label names, in rising order.

    Args:
        labels: int64 (n,).
        classes: the number of classes.
    """
    return tuple(sorted(set(range(classes)) - set(labels.unique().tolist())))


def check_split(
    split: Split, name: str, classes: int | None = None, *, labels: Tensor | None = None, pixels: bool = True
) -> list[str]:
    """Checks the pixels of a split and, if `classes` is given, its labels.

    Args:
        split: an empty one passes without a warning.
        name: of the split, for the messages: `validation`.
        classes: the number of classes; None if the labels are not used.
        labels: int64 (n,); None: the split's targets.
        pixels: whether images are read.

    Returns:
        Warnings of one line each: constant images, classes without images, a single class.

    Raises:
        DataError: if a pixel is NaN or infinite.
    """
    if not len(split):
        return []
    warnings = _pixel_warnings(split.images, name) if pixels else []
    return warnings + (
        _class_warnings(split.targets if labels is None else labels, name, classes) if classes is not None else []
    )


def _pixel_warnings(images: Images, name: str) -> list[str]:
    bad = find_bad_pixels(images)
    if bad.not_finite.count:
        raise DataError(
            f"{name} images must be finite numbers, but {bad.not_finite.count} of {len(images)} have pixels that are "
            f"NaN or infinite (the first is image {bad.not_finite.first}, counted from 0); repair or remove them"
        )
    if bad.constant.count:
        return [
            f"{bad.constant.count} of {len(images)} {name} images are constant (the first is image "
            f"{bad.constant.first}, counted from 0), so nothing can be recognised in them; check how they were read"
        ]
    return []


def _found(positions: Tensor, flags: Tensor) -> FoundImages:
    places = positions[flags]
    return FoundImages(len(places), int(places[0]) if len(places) else None)


def _class_warnings(labels: Tensor, name: str, classes: int) -> list[str]:
    missing = classes_without_images(labels, classes)
    if len(missing) >= classes - 1:
        return [
            f"all {len(labels)} {name} images are of class {int(labels[0])}, so a network that always gives this "
            "answer makes no error; add images of other classes"
        ]
    if missing:
        named = ", ".join(map(str, missing[:_NAMED_CLASSES])) + (", ..." if len(missing) > _NAMED_CLASSES else "")
        return [
            f"{len(missing)} of {classes} classes have no {name} images ({named}), so errors on them are not "
            f"counted; {'labels must count from 0' if missing == (0,) else 'add images of them, or take more images'}"
        ]
    return []
