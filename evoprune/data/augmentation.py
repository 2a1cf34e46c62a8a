"""Random changes of training images, vectorised over the batch."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from evoprune.errors import DataError, type_and_first_line

_ROUNDING = 1e-3


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


def augmented(images: Tensor, names: Sequence[str], generator: torch.Generator, mean: Tensor, std: Tensor) -> Tensor:
    """Applies augmentations in turn.

    Args:
        images: float (b, c, h, w), normalised.
        names: of `config.choices.Augmentation`. Those that are not in AUGMENTATIONS draw from the global generator.
        generator: draws for those in AUGMENTATIONS.
        mean, std: float (c,), of the normalisation.

    Raises:
        DataError: a transform of torchvision's cannot be applied to these images.
    """
    for name in names:
        if name in AUGMENTATIONS:
            images = AUGMENTATIONS[name](images, generator)
        else:
            images = _transformed(images, name, mean[:, None, None], std[:, None, None])
    return images


def _transformed(images: Tensor, name: str, mean: Tensor, std: Tensor) -> Tensor:
    """Applies a transform of torchvision's to each image on its own; mean, std: (c, 1, 1)."""
    pixels = images * std + mean
    if pixels.min() < -_ROUNDING or pixels.max() > 1 + _ROUNDING:
        raise DataError(
            f"data.augment: {name} needs images with pixels from 0 to 1 (or bytes), not from {float(pixels.min()):g} "
            f"to {float(pixels.max()):g}; scale them, or leave it out"
        )
    transform = _torchvision_transform(name)
    try:
        changed = torch.stack([transform(image) for image in pixels.clamp(0, 1)])
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"data.augment: {name} cannot be applied to images (c, h, w) = {tuple(images.shape[1:])} "
            f"({type_and_first_line(error)}); leave it out"
        ) from error
    return (changed - mean) / std


@cache
def _torchvision_transform(name: str) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2

    transform: Callable[[Tensor], Tensor] = getattr(v2, name)()
    return transform
