"""Recalibration: batch-norm statistics of a pruned network, recomputed on the calibration set."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BATCH_SIZE = 256
"""Largest number of images per forward pass; the statistics of several passes of even sizes are averaged."""


def recalibrate(model: nn.Module, images: Tensor, batch_size: int | None = None) -> None:
    """Recomputes the running mean and variance of all batch norms in one pass over the images, in place.

    The modes of modules stay as they are. A network without batch norms that keep statistics is not run.

    Args:
        model: The network.
        images: float (n, channels, h, w), on the network's device.
        batch_size: Largest number of images per forward pass, BATCH_SIZE by default.
    """
    with recalibrated(model) as norms, torch.no_grad():
        if norms:
            for batch in calibration_batches(images, batch_size or BATCH_SIZE):
                model(batch)


def calibration_batches(images: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """The images in passes of even sizes, because a last pass of a single image would have no variance."""
    return images.tensor_split(-(-len(images) // batch_size))


@contextmanager
def recalibrated(model: nn.Module) -> Iterator[list[nn.Module]]:
    """In this context, running statistics become the average over its passes. Yields the batch norms that keep some."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    before = [(norm, norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over passes
        norm.train()
    try:
        yield list(norms)
    finally:
        for norm, training, momentum in before:
            norm.train(training)
            norm.momentum = momentum
