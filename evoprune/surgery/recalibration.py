"""Batch-norm statistics taken anew on the calibration set, which a pruned network needs before it is judged."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BATCH_SIZE = 256
"""Most images a forward pass; the statistics of several passes, which are of even sizes, are averaged."""


def recalibrate(model: nn.Module, images: Tensor, batch_size: int | None = None) -> None:
    """Recomputes every batch norm's running mean and variance in one pass over the images, in place.

    images: float (n, channels, h, w) on the network's device. batch_size: most images a forward pass, BATCH_SIZE by
    default. The modules' modes are left as they were.
    Nothing happens where the network has no batch norm that keeps statistics.
    """
    with recalibrated(model) as norms, torch.no_grad():
        if norms:
            for batch in calibration_batches(images, batch_size or BATCH_SIZE):
                model(batch)


def calibration_batches(images: Tensor, batch_size: int) -> tuple[Tensor, ...]:
    """The images in passes of even sizes: a last pass of a single image would have no statistics."""
    return images.tensor_split(-(-len(images) // batch_size))


@contextmanager
def recalibrated(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Every batch norm that keeps statistics, their running ones set to the average over the passes in this context."""
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
