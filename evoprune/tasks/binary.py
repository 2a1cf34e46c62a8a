"""The task of binary classification: yes or no, by one logit."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from evoprune.errors import DataError
from evoprune.plugins.kinds import task
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree


@task("binary")
@dataclass(frozen=True)
class Binary(Task):
    """Yes or no: a logit (n,) or (n, 1) above 0 says yes, for targets (n,) of 0 and 1."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The cross entropy."""
        return functional.binary_cross_entropy_with_logits(outputs.flatten(), targets.to(outputs.dtype))

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether the answer is not the target."""
        return self.answers(outputs) != targets

    def reference(self, outputs: Tensor) -> Tensor:
        """The logits, float64 (n,)."""
        return outputs.double().flatten()

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """The Kullback-Leibler divergence KL(unpruned || network) of the two probabilities, in nats."""
        return bernoulli_divergence(outputs.double().flatten(), reference)

    def distillation_loss(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """T^2 * KL(teacher || student) of logits over T, the mean over the batch."""
        softened = bernoulli_divergence(outputs.flatten() / temperature, teacher_outputs.flatten() / temperature)
        return softened.mean() * temperature**2

    def answers(self, outputs: Tensor) -> Tensor:
        """1 for a logit above 0, else 0: int64 (n,)."""
        return (outputs.flatten() > 0).long()

    def margins(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The logit in favour of the target."""
        return outputs.flatten() * (2 * targets - 1)

    def curvature_root(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """As `Task.curvature_root`, for the diagonal H = p (1 - p)."""
        shares = outputs.detach().sigmoid()
        return (shares * (1 - shares)).sqrt() * signs

    def classes_of(self, targets: Tensor) -> Tensor:
        """The targets."""
        return targets

    def outputs_needed(self, targets: Tensor) -> int:
        """One."""
        return 1

    def checked_targets(self, targets: Tree, name: str) -> Tensor:
        """The targets as int64 (n,). Raises DataError if they are not 0 and 1."""
        flat = targets.flatten() if isinstance(targets, Tensor) else None
        if flat is None or len(flat) != len(targets) or not bool(((flat == 0) | (flat == 1)).all()):
            raise DataError(f"{name} targets must be 0 or 1 for each image with the task binary, a tensor (n,)")
        return flat.long()

    def check_outputs(self, outputs: Tree, targets: Tensor | None, name: str) -> None:
        """As `Task.check_outputs`: one logit."""
        if not isinstance(outputs, Tensor) or outputs.numel() != 1:
            found = tuple(outputs.shape[1:]) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise DataError(
                f"the network must give one logit for each image with the task binary, not {found}; "
                "take classification for two"
            )


def bernoulli_divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL(sigmoid(others) || sigmoid(logits)) of each element, in nats."""
    yes = others.sigmoid() * (functional.logsigmoid(others) - functional.logsigmoid(logits))
    no = (-others).sigmoid() * (functional.logsigmoid(-others) - functional.logsigmoid(-logits))
    return torch.add(yes, no).clamp(min=0)
