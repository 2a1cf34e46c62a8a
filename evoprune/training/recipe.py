"""The base class of recipes: what training does in a step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from evoprune.config.schema import TrainConfig

_WARM_UP = 0.1


class Recipe(ABC):
    """What retraining does in a step: its optimiser, learning rate, augmentation and update.

    A recipe is constructed without arguments, once for every network and epoch. `fit` does the rest: batches, the loss
    (of the task and of distillation), pruned weights that stay zero, averages of weights, and the state from which
    training goes on. A subclass defines `optimiser`; the other methods have defaults. It must be importable, because
    workers in other processes use it.

    Example:
        >>> class Momentumless(ep.Recipe):
        ...     '''RMSprop at a constant learning rate, on noisy images.'''
        ...     def optimiser(self, parameters, train):
        ...         return torch.optim.RMSprop(parameters, lr=train.learning_rate, weight_decay=train.weight_decay)
        ...     def learning_rate(self, step, steps, train):
        ...         return train.learning_rate
        ...     def augmented(self, images, generator):
        ...         return images + 0.1 * torch.randn(images.shape, generator=generator)

        In a config: `retrain: {recipe: "my_module:Momentumless", learning_rate: 0.001}`.
    """

    @abstractmethod
    def optimiser(self, parameters: list[nn.Parameter], train: TrainConfig) -> torch.optim.Optimizer:
        """The optimiser of a network.

        Args:
            parameters: those that take gradients.
            train: epochs, batch size, learning rate, momentum and weight decay, as the config has them.

        Returns:
            An optimiser whose state is of tensors.
        """

    def learning_rate(self, step: int, steps: int, train: TrainConfig) -> float:
        """The learning rate of a step; by default that of `learning_rate_at`.

        Args:
            step: 0..steps-1.
            steps: of the whole training.
            train: as of `optimiser`.
        """
        return learning_rate_at(step, steps, train.learning_rate)

    def augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A batch after the recipe's own augmentation, which follows that of `data.augment`; by default as it is.

        Args:
            images: float (b, c, h, w), normalised, on the CPU. They may be the data set's own memory.
            generator: draws; seeded by the number of the epoch.

        Returns:
            float (b, c, h, w).
        """
        return images

    def update(self, optimiser: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Tensor:
        """Changes the weights in one step.

        Args:
            optimiser: that of the network, with the step's learning rate.
            loss: computes the loss of the batch, a scalar, by a forward pass. It may be called more than once.

        Returns:
            The loss of the batch before the step.
        """
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        return value

    def state(self) -> dict[str, Tensor]:
        """What the recipe keeps from one epoch to the next besides the optimiser's state; by default nothing."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continues from a state, if `state` returned any tensor. state: what it returned, on the CPU."""
        raise NotImplementedError("a recipe with a state restores it")


def learning_rate_at(step: int, steps: int, highest: float) -> float:
    """The learning rate of a step: linear warm-up over the first tenth of the steps, then half a cosine towards zero.

    It depends on the number of the step alone, which makes training resumable.

    Args:
        step: 0..steps-1.
        steps: of the whole training.
        highest: the learning rate at the end of the warm-up.

    References:
        Goyal et al. 2017, section 2.2 (warm-up); Loshchilov and Hutter 2017, eq. 5 (cosine).
    """
    warm_up = max(1, round(_WARM_UP * steps))
    if step < warm_up:
        return highest * (step + 1) / warm_up
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warm_up + 1) / (steps - warm_up + 1)))
