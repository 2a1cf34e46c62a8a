"""A task from outside of the package."""

import torch
from torch import Tensor

import evoprune as ep


class Brightness(ep.Task):
    """How bright an image is; errors are distances, at most 1."""

    def __init__(self, power: int = 1):
        self.power = power

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets).square().mean()

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets).abs().clamp(max=1) ** self.power


class Failing(Brightness):
    """Its errors fail."""

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise KeyError("first line\nsecond")


class FailingLater(Brightness):
    """Its errors fail once pruned networks come, which are farther from the targets than the unpruned one."""

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found = super().errors(outputs, targets)
        if float(found.mean()) > 0.75:
            raise KeyError("too far")
        return found


class Shapeless(Brightness):
    """Its errors are of one number."""

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().errors(outputs, targets).mean()


class Negative(Brightness):
    """Its errors are below 0."""

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().errors(outputs, targets) - 2


class Undefined(Brightness):
    """Its errors are NaN."""

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().errors(outputs, targets) * torch.nan


def not_a_task() -> int:
    return 3
