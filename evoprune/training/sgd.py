"""The recipe sgd."""

import torch
from torch import nn

from evoprune.config.schema import TrainConfig
from evoprune.plugins.kinds import recipe
from evoprune.training.recipe import Recipe


@recipe("sgd")
class SGD(Recipe):
    """Stochastic gradient descent with Nesterov momentum; warm-up, then half a cosine.

    References:
        Sutskever et al. 2013 (Nesterov momentum).
    """

    def optimiser(self, parameters: list[nn.Parameter], train: TrainConfig) -> torch.optim.Optimizer:
        """As `Recipe.optimiser`."""
        return torch.optim.SGD(
            parameters,
            lr=train.learning_rate,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
            nesterov=train.momentum > 0,
        )
