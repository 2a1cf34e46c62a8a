"""The recipe adamw."""

import torch
from torch import nn

from evoprune.config.schema import TrainConfig
from evoprune.plugins.kinds import recipe
from evoprune.training.recipe import Recipe

SECOND_MOMENT_DECAY = 0.999


@recipe("adamw")
class AdamW(Recipe):
    """AdamW, whose weight decay does not pass through the gradient; warm-up, then half a cosine.

    The momentum is the decay of the first moment. Learning rates are about a tenth of those of sgd or less (0.001).

    References:
        Loshchilov and Hutter 2019, algorithm 2.
    """

    def optimiser(self, parameters: list[nn.Parameter], train: TrainConfig) -> torch.optim.Optimizer:
        """As `Recipe.optimiser`."""
        return torch.optim.AdamW(
            parameters,
            lr=train.learning_rate,
            betas=(train.momentum, SECOND_MOMENT_DECAY),
            weight_decay=train.weight_decay,
        )
