"""Random changes of training images, vectorised over the batch."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional


def random_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts every image by up to p pixels each way and fills up with 0, the mean of normalised images.

    images: float (b, c, h, w). p is 4 for 32 pixels and 2 for 28: 2 * (h // 16), at least 1.
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
    """Mirrors every image left to right with a chance of one half. images: float (b, c, h, w)."""
    flipped = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(flipped, images.flip(3), images)


AUGMENTATIONS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = MappingProxyType(
    {"crop": random_crop, "flip": random_flip}
)


def augmented(images: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """The images after the named augmentations, one after the other. Raises KeyError for an unknown name."""
    for name in names:
        images = AUGMENTATIONS[name](images, generator)
    return images
