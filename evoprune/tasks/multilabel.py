"""The task of several labels: any number of them for each example."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from evoprune.errors import DataError
from evoprune.plugins.kinds import task
from evoprune.tasks.binary import bernoulli_divergence
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree


@task("multilabel")
@dataclass(frozen=True)
class Multilabel(Task):
    """Any number of labels: each logit of (n, labels) above 0 says yes, for targets (n, labels) of 0 and 1.

    The error of an example is the share of its labels that are wrong.
    """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The cross entropy, the mean over labels."""
        return functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The share of labels whose answer is wrong."""
        return (self.answers(outputs) != targets).double().mean(1)

    def reference(self, outputs: Tensor) -> Tensor:
        """The logits, float64 (n, labels)."""
        return outputs.double()

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """The Kullback-Leibler divergence KL(unpruned || network), in nats, the sum over labels."""
        return bernoulli_divergence(outputs.double(), reference).sum(1)

    def distillation_loss(self, outputs: Tensor, teacher_outputs: Tensor, temperature: float) -> Tensor:
        """T^2 * KL(teacher || student) of logits over T, the mean over the batch and labels."""
        return bernoulli_divergence(outputs / temperature, teacher_outputs / temperature).mean() * temperature**2

    def answers(self, outputs: Tensor) -> Tensor:
        """1 for a logit above 0, else 0: int64 (n, labels)."""
        return (outputs > 0).long()

    def margins(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The least of the logits in favour of the targets."""
        return (outputs * (2 * targets - 1)).amin(1)

    def curvature_root(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """As `Task.curvature_root`, for the diagonal H = p (1 - p) / labels."""
        shares = outputs.detach().sigmoid()
        return (shares * (1 - shares) / outputs.shape[1]).sqrt() * signs

    def outputs_needed(self, targets: Tensor) -> int:
        """The number of labels."""
        return int(targets.shape[1])

    def checked_targets(self, targets: Tree, name: str) -> Tensor:
        """The targets as int64 (n, labels). Raises DataError if they are not 0 and 1."""
        if not isinstance(targets, Tensor) or targets.ndim != 2 or not bool(((targets == 0) | (targets == 1)).all()):
            raise DataError(f"{name} targets must be a tensor (n, labels) of 0 and 1 with the task multilabel")
        return targets.long()

    def check_outputs(self, outputs: Tree, targets: Tensor | None, name: str) -> None:
        """As `Task.check_outputs`: a logit for each label."""
        wanted = "labels" if targets is None else str(targets.shape[1])
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or wanted not in ("labels", str(outputs.shape[1])):
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise DataError(
                f"the network must give a logit for each label of the {name} targets, (1, {wanted}), not {found}"
            )
