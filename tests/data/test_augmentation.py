"""Augmentations by name."""

from typing import get_args

import pytest
import torch

from evoprune.config.choices import Augmentation
from evoprune.data.augmentation import AUGMENTATIONS, augmented
from evoprune.errors import DataError
from evoprune.networks.seeding import global_seed

TORCHVISION = [name for name in get_args(Augmentation) if name not in AUGMENTATIONS]
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])


def images(channels: int = 3) -> torch.Tensor:
    """Normalised."""
    pixels = torch.rand(6, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    return (pixels - MEAN[:channels, None, None]) / STD[:channels, None, None]


def changed(names: list[str], seed: int, channels: int = 3) -> torch.Tensor:
    with global_seed(seed, torch.device("cpu")):
        generator = torch.Generator().manual_seed(seed)
        return augmented(images(channels), names, generator, MEAN[:channels], STD[:channels])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TORCHVISION)
def test_transforms_of_torchvision_draw_for_each_image_from_the_seed(name: str, channels: int) -> None:
    one, again = changed([name], 1, channels), changed([name], 1, channels)
    assert one.shape == (6, channels, 16, 16)
    assert one.dtype == torch.float32
    assert torch.equal(one, again)
    pixels = one * STD[:channels, None, None] + MEAN[:channels, None, None]
    assert -1e-4 < pixels.min() < pixels.max() < 1 + 1e-4
    others = torch.stack([changed([name], seed, channels) for seed in range(20)])
    assert channels == 1 or not torch.allclose(others, images(channels)[None], atol=1e-5)


def test_they_see_pixels_and_not_normalised_values() -> None:
    """A vertical flip moves normalised values only; an inversion is 1 - pixel."""
    flips = [changed(["RandomVerticalFlip"], seed)[0] for seed in range(20)]
    assert all(
        torch.allclose(flip, images()[0], atol=1e-6) or torch.allclose(flip, images()[0].flip(1), atol=1e-6)
        for flip in flips
    )
    inverted = (1 - (images() * STD[:, None, None] + MEAN[:, None, None]) - MEAN[:, None, None]) / STD[:, None, None]
    found = [changed(["RandomInvert"], seed)[0] for seed in range(20)]
    assert any(torch.allclose(image, inverted[0], atol=1e-5) for image in found)


def test_pixels_of_another_range_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.augment: RandAugment needs images with pixels from 0 to 1"):
        augmented(10 * images(), ["RandAugment"], torch.Generator(), MEAN, STD)
