"""A data set of a few made-up images, for runs that take a moment."""

import torch


def few() -> tuple[torch.Tensor, ...]:
    """The images of `data.dataset: tests.few_images:few`: bars of ten heights, with noise."""
    return (*_bars(200, 0), *_bars(30, 1))


def _bars(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    images = torch.rand(count, 1, 14, 14, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[0, : int(label) + 2] += 1
    return images, labels
