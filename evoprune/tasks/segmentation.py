"""The task of semantic segmentation: a class for each pixel."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from evoprune.errors import ConfigError, DataError
from evoprune.plugins.kinds import task
from evoprune.tasks.classification import softened_divergence
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree


@task("segmentation")
@dataclass(frozen=True)
class Segmentation(Task):
    """A class for each pixel: the highest of the outputs (n, classes, h, w), for targets (n, h, w).

    One output (n, 1, h, w) is the logit of class 1 against class 0. The error of an image is the share of its pixels
    that are wrong.

    Attributes:
        ignore_index: the class of pixels that do not count, such as 255; None: all count.
    """

    ignore_index: int | None = None
    fixed_by_moves = False

    def __post_init__(self) -> None:
        if self.ignore_index is not None and type(self.ignore_index) is not int:
            raise ConfigError(
                f"task_options.ignore_index must be a whole number, or null, not {self.ignore_index!r}; write 255"
            )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The cross entropy, the mean over the pixels that count."""
        counted = self._counted(targets)
        summed = functional.cross_entropy(_logits(outputs), targets.where(counted, 0), reduction="none") * counted
        return summed.sum() / counted.sum().clamp(min=1)

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The share of wrong pixels among those that count; 0 if none does."""
        counted = self._counted(targets)
        wrong = (self.answers(outputs) != targets) & counted
        return wrong.flatten(1).sum(1).double() / counted.flatten(1).sum(1).clamp(min=1)

    def reference(self, outputs: Tensor) -> Tensor:
        """The logarithms of the probabilities, float (n, classes, h, w)."""
        return functional.log_softmax(_logits(outputs), dim=1)

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """The Kullback-Leibler divergence KL(unpruned || network), in nats, the mean over pixels."""
        log_probs = functional.log_softmax(_logits(outputs).double(), dim=1)
        nats = functional.kl_div(log_probs, reference.double(), reduction="none", log_target=True)
        return nats.sum(1).flatten(1).mean(1)

    def distillation_loss(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """As `Classification.distillation_loss`, the mean over pixels."""
        logits = _logits(outputs)
        return softened_divergence(logits, _logits(teacher_outputs), temperature) / logits[0, 0].numel()

    def answers(self, outputs: Tensor) -> Tensor:
        """The class of the highest output at each pixel: int64 (n, h, w)."""
        return _logits(outputs).argmax(1)

    def curvature_root(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """As `Task.curvature_root`, for H = (diag(p) - p p^T) / pixels at each pixel."""
        if outputs.shape[1] == 1:
            shares = outputs.detach().sigmoid()
            return (shares * (1 - shares) / outputs[0].numel()).sqrt() * signs
        shares = outputs.detach().softmax(1)
        root = shares.sqrt() * signs
        return (root - shares * root.sum(1, keepdim=True)) / outputs[0, 0].numel() ** 0.5

    def outputs_needed(self, targets: Tensor) -> int:
        """The number of classes: one more than the largest that counts."""
        return int(targets.where(self._counted(targets), 0).max()) + 1

    def checked_targets(self, targets: Tree, name: str) -> Tensor:
        """The targets as int64 (n, h, w). Raises DataError if they are not whole numbers of that shape."""
        masks = targets.squeeze(1) if isinstance(targets, Tensor) and targets.ndim == 4 else targets
        if not isinstance(masks, Tensor) or masks.ndim != 3 or masks.is_complex():
            raise DataError(f"{name} targets must be whole numbers (n, h, w) with the task segmentation: masks")
        if masks.is_floating_point() and not bool((masks == masks.round()).all()):
            raise DataError(
                f"{name} targets must be whole numbers (n, h, w), the class of each pixel, not {masks.dtype} between"
            )
        return masks.long()

    def check_outputs(self, outputs: Tree, targets: Tensor | None, name: str) -> None:
        """As `Task.check_outputs`: (1, classes, h, w), of the masks' size, and classes that it has outputs for."""
        if not isinstance(outputs, Tensor) or outputs.ndim != 4:
            raise DataError(
                "the network must give logits (n, classes, h, w) for images with the task segmentation; wrap a "
                "network that gives anything else"
            )
        if targets is None or not len(targets):
            return
        if targets.shape[1:] != outputs.shape[2:]:
            raise DataError(
                f"{name} masks must have the size of the network's outputs, {tuple(outputs.shape[2:])}, not "
                f"{tuple(targets.shape[1:])}; resize one of them"
            )
        counted, classes = targets[self._counted(targets)], max(outputs.shape[1], 2)
        if len(counted) and not 0 <= int(counted.min()) <= int(counted.max()) < classes:
            raise DataError(
                f"{name} masks must have classes 0..{classes - 1}, one of the network's outputs each, not "
                f"{int(counted.min())}..{int(counted.max())}; task_options.ignore_index is for pixels that do not count"
            )

    def _counted(self, targets: Tensor) -> Tensor:
        if self.ignore_index is None:
            return torch.ones_like(targets, dtype=torch.bool)
        return targets != self.ignore_index


def _logits(outputs: Tensor) -> Tensor:
    """(n, classes, h, w), two at least: one logit is that of class 1, beside a 0 for class 0."""
    return torch.cat([torch.zeros_like(outputs), outputs], 1) if outputs.shape[1] == 1 else outputs
