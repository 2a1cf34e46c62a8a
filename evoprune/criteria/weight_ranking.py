"""Which single weights stay, by any criterion that is defined for them: see `surgery.unstructured`."""

import math

import numpy as np
import torch
from torch import Tensor

from evoprune.config.schema import Scope
from evoprune.criteria.importance import WeightScores
from evoprune.errors import ConfigError
from evoprune.space.search_space import SearchSpace


def weight_masks(scores: WeightScores, kept_fraction: float, scope: Scope) -> dict[str, Tensor]:
    """Masks under which the share `kept_fraction` (0..1) of the weights stays: those of the highest scores.

    scores: of `criteria.weight_importance`. local: the share of every layer, at least one weight each; global: of all
    layers together, of which some may lose everything. What went before stays gone when the network is pruned again,
    for weights of 0 have the lowest score by every criterion but random.
    Han et al. 2015 (magnitude); Tanaka et al. 2020, section 3 (layer collapse).
    """
    if scope == "local":
        return {
            name: _highest(values, max(1, round(kept_fraction * values.numel()))) for name, values in scores.items()
        }
    together = torch.cat([values.reshape(-1) for values in scores.values()])
    stays = _highest(together, round(kept_fraction * len(together)))
    parts = stays.split([values.numel() for values in scores.values()])
    return {name: part.reshape(values.shape) for (name, values), part in zip(scores.items(), parts, strict=True)}


def kept_fraction_for(space: SearchSpace, params_target: int) -> float:
    """The share of layers' weights that leaves a network `params_target` parameters, biases and norms included.

    Raises ConfigError where those alone are as many.
    """
    whole = sum(math.prod(tensor.shape) for tensor in space.tensors if tensor.parameter)
    weights = sum(math.prod(layer.shape) for layer in space.layers)
    if params_target <= whole - weights:
        raise ConfigError(
            f"single weights cannot be pruned to {params_target} parameters: {whole - weights} are biases and norms, "
            "which stay; raise the target"
        )
    return min(1.0, (params_target - (whole - weights)) / weights)


def _highest(values: Tensor, count: int) -> Tensor:
    """Which `count` values are the highest; of equal ones the first. Bool of their shape."""
    order = np.argsort(-values.reshape(-1).numpy(), kind="stable")
    stays = torch.zeros(values.numel(), dtype=torch.bool)
    stays[torch.from_numpy(order[:count])] = True
    return stays.reshape(values.shape)
