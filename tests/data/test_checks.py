"""Faults of images and labels, found in splits where their number and place are known."""

import math

import pytest
import torch

from evoprune.data.checks import BadPixels, FoundImages, check_split, classes_without_images, find_bad_pixels
from evoprune.data.images import ImageArray
from evoprune.data.splits import Split
from evoprune.errors import DataError


def pixels(count: int) -> torch.Tensor:
    return torch.rand(count, 2, 3, 3, generator=torch.Generator().manual_seed(0))


def split(images: torch.Tensor, labels: list[int]) -> Split:
    return Split(ImageArray(images), torch.tensor(labels), torch.zeros(2), torch.ones(2))


def test_pixels_that_are_not_finite_are_counted_over_all_chunks() -> None:
    images = pixels(2500)
    images[1203, 1, 2, 0] = math.nan
    images[1999, 0, 0, 0] = -math.inf
    images[2400] = math.nan
    assert find_bad_pixels(ImageArray(images)) == BadPixels(FoundImages(3, 1203), FoundImages(0, None))


def test_an_image_is_constant_if_every_channel_is() -> None:
    images = (pixels(5) * 255).to(torch.uint8)
    images[2, 0] = 7
    assert find_bad_pixels(ImageArray(images)).constant == FoundImages(0, None)
    images[2, 1] = 9
    images[4] = 0
    assert find_bad_pixels(ImageArray(images)).constant == FoundImages(2, 2)
    assert find_bad_pixels(ImageArray(images[..., :1, :1])).constant == FoundImages(0, None)  # images of one pixel


def test_classes_without_images() -> None:
    assert classes_without_images(torch.tensor([3, 0, 3]), 5) == (1, 2, 4)
    assert classes_without_images(torch.tensor([1, 0]), 2) == ()
    assert classes_without_images(torch.tensor([], dtype=torch.int64), 2) == (0, 1)


def test_pixels_that_are_not_finite_are_refused() -> None:
    images = pixels(4)
    images[3, 0, 0, 0] = math.inf
    with pytest.raises(DataError, match=r"^calibration images must be finite .* 1 of 4 .* image 3, .*repair or remove"):
        check_split(split(images, [0, 1, 0, 1]), "calibration", 2)


def test_warnings_name_splits_that_cannot_be_learned() -> None:
    images = pixels(4)
    assert check_split(split(images, [0, 1, 2, 0]), "validation", 3) == []
    assert check_split(split(images, [0, 0, 0, 0]), "validation") == []  # labels that nobody uses
    assert check_split(split(images[:0], []), "test", 3) == []
    [missing] = check_split(split(images, [0, 1, 1, 0]), "validation", 9)
    assert "7 of 9 classes have no validation images (2, 3, 4, 5, 6, ...)" in missing
    [from_one] = check_split(split(images, [1, 2, 2, 1]), "train", 3)
    assert from_one.startswith("1 of 3 classes have no train images (0), ")
    assert from_one.endswith("labels must count from 0")
    images[1] = 0.5
    constant, single = check_split(split(images, [1, 1, 1, 1]), "train", 3)
    assert "1 of 4 train images are constant (the first is image 1," in constant
    assert "all 4 train images are of class 1" in single
