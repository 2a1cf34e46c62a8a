"""Data sets and networks that configs name, for other tasks than classification."""

from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from tests.tasks.cases import CASES, IMAGES, pixels, vector

MASKS = CASES["segmentation"].targets


def masks() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images with a mask each."""
    return IMAGES[:40], MASKS[:40], IMAGES[40:], MASKS[40:]


def brightness() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images with a number each."""
    means = CASES["own"].targets
    return IMAGES[:40], means[:40], IMAGES[40:], means[40:]


def images_alone() -> tuple[Tensor, Tensor]:
    """Images without targets, of training and of testing."""
    return IMAGES[:40], IMAGES[40:]


class Pairs(Dataset[Any]):
    """Pairs of an image and its mask."""

    def __init__(self, first: int, last: int) -> None:
        self._places = range(first, last)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return IMAGES[self._places[index]], MASKS[self._places[index]]


def data_sets() -> tuple[Pairs, Pairs]:
    """The masks as data sets."""
    return Pairs(0, 40), Pairs(40, 48)


def segmenter(classes: int) -> nn.Module:
    return pixels(classes)


def one_number() -> nn.Module:
    return vector(1)


def three_classes() -> nn.Module:
    return vector(3)
