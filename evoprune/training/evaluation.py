"""Errors and loss of a network on labelled images: the only place that counts them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from evoprune.data.splits import Split
from evoprune.networks.modes import eval_mode
from evoprune.training.layout import lay_out


@dataclass(frozen=True)
class Evaluation:
    """Errors and loss of a network on a split.

    errors: number of misclassified images. images: number of all images. cross_entropy: of the labels, in nats, the
    mean over the images; not finite if a logit is not.
    """

    errors: int
    images: int
    cross_entropy: float

    @property
    def mcr(self) -> float:
        """The misclassification rate, 0..1."""
        return self.errors / self.images


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, device: torch.device, batch_size: int = 250) -> Evaluation:
    """Counts the errors of a network on a split and measures its cross entropy.

    Args:
        model: moved to `device`; it computes in evaluation mode, and its mode afterwards is that of before.
        split: at least one image.
        device: computes.
        batch_size: number of images per forward pass.
    """
    model.to(device)
    layout = lay_out(model, split.batch(torch.arange(min(2, len(split))))[0].to(device))
    batches = (split.batch(indices) for indices in torch.arange(len(split)).split(batch_size))
    errors, entropy = 0, 0.0
    with eval_mode(model):
        for logits, labels in outputs(model, ((images.to(memory_format=layout), y) for images, y in batches), device):
            errors += count_misclassified(logits, labels)
            entropy += summed_cross_entropy(logits, labels)
    model.to(memory_format=torch.contiguous_format)
    return Evaluation(errors, len(split), entropy / len(split))


def count_errors(model: nn.Module, split: Split, device: torch.device) -> int:
    """The number of images of the split that the model misclassifies, as `evaluate` counts them."""
    return evaluate(model, split, device).errors


def outputs(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The network's logits for batches of images, and their labels.

    Args:
        network: on the device, in the mode in which it is to compute.
        batches: images (b, c, h, w) and labels int64 (b,), anywhere.
        device: computes.

    Yields:
        Logits (b, classes) and labels (b,) of each batch, on the device.
    """
    for images, labels in batches:
        yield network(images.to(device)), labels.to(device)


def batches_of(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cuts images (n, c, h, w) and labels (n,) into batches of `size`; the last one may be smaller."""
    return zip(images.split(size), labels.split(size), strict=True)


def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each image is an error: its highest logit is not its label's, or a logit of it is not finite.

    Args:
        logits: (n, classes).
        labels: int64 (n,).

    Returns:
        bool (n,).
    """
    return (logits.argmax(1) != labels) | ~logits.isfinite().all(1)


def count_misclassified(logits: Tensor, labels: Tensor) -> int:
    """The number of images that are errors, as `misclassified` tells them."""
    return int(misclassified(logits, labels).sum())


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """The cross entropy of logits (n, classes) with labels int64 (n,), in nats, summed over the images in float64."""
    return float(functional.cross_entropy(logits.double(), labels, reduction="sum"))
