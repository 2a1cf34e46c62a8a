"""The task of classification: one of several classes for each example."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from evoprune.errors import DataError
from evoprune.plugins.kinds import task
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree

MOST_CLASSES = 1_000_000


@task("classification")
@dataclass(frozen=True)
class Classification(Task):
    """One of several classes: the highest of the outputs (n, classes), for labels (n,) from 0."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The cross entropy."""
        return functional.cross_entropy(outputs, targets)

    def summed_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """As `Task.summed_loss`, in nats."""
        return functional.cross_entropy(outputs, targets, reduction="sum")

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether the highest output is not the label's."""
        return outputs.argmax(1) != targets

    def reference(self, outputs: Tensor) -> Tensor:
        """The logarithms of the probabilities, float64 (n, classes)."""
        return functional.log_softmax(outputs.double(), dim=1)

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """The Kullback-Leibler divergence KL(unpruned || network), in nats.

        References:
            Kullback and Leibler, On Information and Sufficiency, Annals of Mathematical Statistics 22(1), 1951.
        """
        log_probs = functional.log_softmax(outputs.double(), dim=1)
        return functional.kl_div(log_probs, reference, reduction="none", log_target=True).sum(1)

    def distillation_loss(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """T^2 * KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch.

        References:
            Hinton, Vinyals and Dean 2015, section 2.
        """
        return softened_divergence(outputs, teacher_outputs, temperature)

    def answers(self, outputs: Tensor) -> Tensor:
        """The class of the highest output."""
        return outputs.argmax(1)

    def margins(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The right class's output minus the best other one.

        A smaller network misclassifies examples of little margin first, so an infeasible network is found out early.
        """
        right = outputs.gather(1, targets[:, None]).squeeze(1)
        others = outputs.scatter(1, targets[:, None], -torch.inf).amax(1)
        return right - others

    def curvature_root(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """As `Task.curvature_root`, for H = diag(p) - p p^T."""
        shares = outputs.detach().softmax(1)
        root = shares.sqrt() * signs
        return root - shares * root.sum(1, keepdim=True)

    def classes_of(self, targets: Tensor) -> Tensor:
        """The labels."""
        return targets

    def outputs_needed(self, targets: Tensor) -> int:
        """The number of classes: one more than the largest label."""
        return int(targets.max()) + 1

    def checked_targets(self, targets: Tree, name: str) -> Tensor:
        """The labels as int64 (n,). Raises DataError if they are not whole numbers (n,)."""
        if not isinstance(targets, Tensor):
            raise DataError(f"{name} labels must be whole numbers (n,), not a {type(targets).__name__}")
        if targets.ndim != 1 or targets.is_floating_point() or targets.is_complex():
            raise DataError(
                f"{name} labels must be whole numbers (n,), not of shape {tuple(targets.shape)} and {targets.dtype}; "
                "give the number of each image's class, or another task"
            )
        if len(targets) and int(targets.max()) >= MOST_CLASSES:
            raise DataError(
                f"{name} labels must be below {MOST_CLASSES:,}, not {int(targets.max())}; "
                "number the classes 0, 1, 2, ..."
            )
        return targets.long()

    def check_outputs(self, outputs: Tree, targets: Tensor | None, name: str) -> None:
        """As `Task.check_outputs`: logits (1, classes), and labels from 0 to classes - 1."""
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            raise DataError(
                "the network must give logits (n, classes) for images; wrap a network that gives anything else, "
                "or give another task"
            )
        classes = outputs.shape[1]
        if targets is not None and len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < classes:
            raise DataError(
                f"{name} labels must be 0..{classes - 1}, one of the network's logits each, "
                f"not {int(targets.min())}..{int(targets.max())}"
            )


def softened_divergence(outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), summed over all but the first dimension, then its mean.

    Args:
        outputs: of the student, (n, classes, ...).
        teacher_outputs: of the same shape.
        temperature: T.
    """
    student = functional.log_softmax(outputs / temperature, dim=1)
    wanted = functional.log_softmax(teacher_outputs / temperature, dim=1)
    return functional.kl_div(student, wanted, reduction="batchmean", log_target=True) * temperature**2
