"""Recipes of a user's own: one that works, and one for every mistake."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import evoprune as ep


class Noisy(ep.Recipe):
    """RMSprop on noisy images, at half the rate after every epoch."""

    def __init__(self) -> None:
        self.factor = torch.ones(1)

    def optimiser(self, parameters: list[nn.Parameter], train: Any) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, lr=train.learning_rate, momentum=0.5)

    def learning_rate(self, step: int, steps: int, train: Any) -> float:
        return 0.001 * float(self.factor)

    def augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images + 0.1 * torch.randn(images.shape, generator=generator)

    def state(self) -> dict[str, Tensor]:
        self.factor /= 2
        return {"factor": self.factor}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.factor = state["factor"]


class Plain(ep.Recipe):
    """A recipe without a mistake, whose subclasses have one each."""

    def optimiser(self, parameters: list[nn.Parameter], train: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=train.learning_rate)


class Raises(Plain):
    def optimiser(self, parameters: list[nn.Parameter], train: Any) -> torch.optim.Optimizer:
        raise KeyError("lr")


class NoOptimiser(Plain):
    def optimiser(self, parameters: list[nn.Parameter], train: Any) -> torch.optim.Optimizer:
        return parameters  # type: ignore[return-value]


class NumberOfSteps(Plain):
    def optimiser(self, parameters: list[nn.Parameter], train: Any) -> torch.optim.Optimizer:
        optimiser = torch.optim.SGD(parameters, lr=train.learning_rate)
        optimiser.state[parameters[0]]["steps"] = 5
        return optimiser


class NaNRate(Plain):
    def learning_rate(self, step: int, steps: int, train: Any) -> float:
        return float("nan") if step else 0.1


class Cropped(Plain):
    def augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images[..., 1:]


class NoLoss(Plain):
    def update(self, optimiser: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Tensor:
        return None  # type: ignore[return-value]


class NaNLoss(Plain):
    def update(self, optimiser: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Tensor:
        for group in optimiser.param_groups:
            group["lr"] = 1e30
        return super().update(optimiser, loss)


class StateOfNumbers(Plain):
    def state(self) -> dict[str, Tensor]:
        return {"steps": 5}  # type: ignore[dict-item]


class Constructed(Plain):
    def __init__(self, rate: float):
        self.rate = rate


def number() -> int:
    return 5


NOT_CALLABLE = 5
