"""Random changes of training images, vectorised over the batch."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional


def random_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts each image by up to p pixels in each direction and fills with 0, the mean of normalised images.

    p is 2 * (h // 16), at least 1: 4 for 32 pixels, 2 for 28 pixels.

    Args:
        images: float (b, c, h, w).
        generator: draws the shifts.

    References:
        He et al. 2016, section 4.2 (p = 4).
    """
    batch, _, height, width = images.shape
    pad = max(1, 2 * (height // 16))
    padded = functional.pad(images, (pad, pad, pad, pad))
    top, left = torch.randint(2 * pad + 1, (2, batch, 1), generator=generator)
    rows = top + torch.arange(height)  # (b, h)
    columns = left + torch.arange(width)  # (b, w)
    examples = torch.arange(batch)[:, None, None]
    cropped = padded[examples, :, rows[:, :, None], columns[:, None, :]]  # (b, h, w, c)
    return cropped.permute(0, 3, 1, 2)


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors each image left to right with probability 1/2. images: float (b, c, h, w)."""
    flipped = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(flipped, images.flip(3), images)


AUGMENTATIONS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = MappingProxyType(
    {"crop": random_crop, "flip": random_flip}
)


def augmented(images: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """Applies the augmentations of the given names in AUGMENTATIONS in turn. images: float (b, c, h, w)."""
    for name in names:
        images = AUGMENTATIONS[name](images, generator)
    return images
