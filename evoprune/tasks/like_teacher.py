"""The task without labels: the outputs of the unpruned network, whatever they are, are the targets."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from evoprune.errors import ConfigError, DataError
from evoprune.plugins.kinds import task
from evoprune.tasks.task import Task, mean_squares
from evoprune.tasks.trees import Tree, tensors_in

DEFAULT_TOLERANCE = 0.1
"""The tolerance if none is given, as a share of the deviation of each output tensor."""


@task("like_teacher")
@dataclass(frozen=True)
class LikeTeacher(Task):
    """The outputs of the unpruned network, any tree of tensors; the data need no labels.

    The error of an example is the share of its outputs that differ from the unpruned network's by more than the
    tolerance.

    Attributes:
        tolerance: in the scale of the outputs; None: a tenth of the standard deviation of each output tensor.
    """

    tolerance: float | None = None
    _deviations: tuple[float, ...] = ()
    fixed_by_moves = False
    reads_targets = False

    def __post_init__(self) -> None:
        tolerance = self.tolerance
        if tolerance is not None and (type(tolerance) not in (int, float) or not tolerance > 0):
            raise ConfigError(
                f"task_options.tolerance must be a number above 0, in the scale of the outputs, not {tolerance!r}"
            )

    def loss(self, outputs: Tree, targets: Tree) -> Tensor:
        """The mean squared difference over the variance of each output tensor, the mean over tensors."""
        pairs = zip(tensors_in(outputs), tensors_in(targets), self._scales(outputs), strict=True)
        losses = [
            functional.mse_loss(output, target.to(output.dtype)) / scale**2
            for output, target, scale in pairs
            if output.is_floating_point()
        ]
        return torch.stack(losses).mean()

    def errors(self, outputs: Tree, targets: Tree) -> Tensor:
        """The share of outputs that differ by more than the tolerance."""
        wrong = []
        for output, target, scale in zip(tensors_in(outputs), tensors_in(targets), self._scales(outputs), strict=True):
            allowed = DEFAULT_TOLERANCE * scale if self.tolerance is None else self.tolerance
            wrong.append(((output.double() - target.double()).abs() > allowed).reshape(len(output), -1))
        return torch.cat(wrong, 1).double().mean(1)

    def divergence(self, outputs: Tree, reference: Tree) -> Tensor:
        """The mean squared difference over the variance of each output tensor, the mean over tensors."""
        return mean_squares(outputs, reference, tuple(self._scales(outputs)))

    def distillation_loss(self, outputs: Tree, teacher_outputs: Tree, temperature: float) -> Tensor:
        """The loss itself: both are the same here."""
        return self.loss(outputs, teacher_outputs)

    def answers(self, outputs: Tree) -> Tree:
        """The outputs."""
        return outputs

    def margins(self, outputs: Tree, targets: Tree) -> Tensor:
        """The images' own order: the unpruned network makes no errors."""
        return torch.zeros(len(tensors_in(outputs)[0]))

    def fitted(self, targets: Tree) -> "LikeTeacher":
        """The task with the deviations of these outputs; 1 for a tensor that never varies."""
        deviations = [float(tensor.double().std(unbiased=False)) for tensor in tensors_in(targets)]
        return replace(self, _deviations=tuple(deviation or 1.0 for deviation in deviations))

    def check_outputs(self, outputs: Tree, targets: Tree | None, name: str) -> None:
        """As `Task.check_outputs`: one tensor at least, and all of them with the image first."""
        found = tensors_in(outputs)
        if not found or any(tensor.ndim == 0 or len(tensor) != 1 or not tensor.numel() for tensor in found):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found) or type(outputs).__name__
            raise DataError(
                f"the network must give tensors whose first size is the number of images, not {shapes} for one image; "
                "wrap it"
            )

    def _scales(self, outputs: Tree) -> list[float]:
        return list(self._deviations) or [1.0] * len(tensors_in(outputs))
