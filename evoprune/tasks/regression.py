"""The task of regression: one number or several for each example."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from evoprune.errors import DataError
from evoprune.plugins.kinds import task
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree


@task("regression")
@dataclass(frozen=True)
class Regression(Task):
    """Numbers (n,), (n, numbers) or (n, numbers, ...), of the shape of the outputs.

    The error of an example is its squared difference over the variance of the validation targets, at most 1: always
    answering their mean has an error of about 1, and without clipping, the mean error is 1 - R^2.

    Attributes:
    """

    _variances: tuple[float, ...] = ()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean squared difference."""
        return functional.mse_loss(outputs.reshape(targets.shape), targets.to(outputs.dtype))

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The squared difference over the variance, the mean over numbers, at most 1."""
        return self._scaled_squares(outputs, targets).clamp(max=1)

    def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """The squared difference from the unpruned network's outputs over the targets' variance."""
        return self._scaled_squares(outputs, reference)

    def answers(self, outputs: Tensor) -> Tensor:
        """The outputs."""
        return outputs

    def curvature_root(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """As `Task.curvature_root`, for H = 2 / numbers."""
        return signs * (2 / outputs[0].numel()) ** 0.5

    def fitted(self, targets: Tensor) -> "Regression":
        """The task with the variances of these targets. Raises DataError if a number is the same in all of them."""
        variances = _numbers_last(targets).double().var(0, unbiased=False)
        if not bool((variances > 0).all()):
            raise DataError(
                "validation targets must vary with the task regression: one of their numbers is the same for all "
                "images; give more images, or leave the number out"
            )
        return replace(self, _variances=tuple(variances.tolist()))

    def outputs_needed(self, targets: Tensor) -> int:
        """The number of numbers."""
        return int(targets.shape[1]) if targets.ndim > 1 else 1

    def checked_targets(self, targets: Tree, name: str) -> Tensor:
        """The targets as float32. Raises DataError if they are not finite numbers."""
        if not isinstance(targets, Tensor) or targets.is_complex() or not bool(targets.isfinite().all()):
            raise DataError(f"{name} targets must be a tensor of finite numbers with the task regression")
        return targets.float()

    def check_outputs(self, outputs: Tree, targets: Tensor | None, name: str) -> None:
        """As `Task.check_outputs`: as many numbers as the targets."""
        if not isinstance(outputs, Tensor):
            raise DataError(
                f"the network must give a tensor with the task regression, not a {type(outputs).__name__}; wrap it"
            )
        if (
            targets is not None
            and outputs.shape[1:] != targets.shape[1:]
            and not (targets.ndim == 1 and outputs.numel() == 1)
        ):
            raise DataError(
                f"{name} targets must have the shape of the network's outputs, {tuple(outputs.shape[1:])} an image, "
                f"not {tuple(targets.shape[1:])}"
            )

    def _scaled_squares(self, outputs: Tensor, others: Tensor) -> Tensor:
        squares = (outputs.double().reshape(others.shape) - others.double()).square()
        scaled = _numbers_last(squares)
        if self._variances:
            scaled = scaled / torch.tensor(self._variances, dtype=torch.float64, device=scaled.device)
        return scaled.reshape(len(others), -1).mean(1)


def _numbers_last(values: Tensor) -> Tensor:
    """(n,) as (n, 1), and (n, numbers, ...) as (n * places, numbers)."""
    if values.ndim == 1:
        return values[:, None]
    return values.movedim(1, -1).reshape(-1, values.shape[1])
