"""Batch-norm statistics taken anew on the calibration set, which a pruned network needs before it is judged."""

import torch
from torch import Tensor, nn

BATCH_SIZE = 256
"""Most images a forward pass; the statistics of several passes, which are of even sizes, are averaged."""


def recalibrate(model: nn.Module, images: Tensor) -> None:
    """Recomputes every batch norm's running mean and variance in one pass over the images, in place.

    images: float (n, channels, h, w) on the network's device. The modules' modes are left as they were.
    Nothing happens where the network has no batch norm that keeps statistics.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return
    before = [(norm, norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over passes
        norm.train()
    try:
        with torch.no_grad():
            # Of even sizes: a last pass of a single image would have no statistics.
            for batch in images.tensor_split(-(-len(images) // BATCH_SIZE)):
                model(batch)
    finally:
        for norm, training, momentum in before:
            norm.train(training)
            norm.momentum = momentum
