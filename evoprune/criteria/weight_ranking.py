"""Masks of single weights by a ranking, for unstructured pruning: see `surgery.weight_masks`."""

import math

import numpy as np
import torch
from torch import Tensor

from evoprune.config.choices import Scope
from evoprune.criteria.importance import WeightScores
from evoprune.errors import ConfigError
from evoprune.space.search_space import SearchSpace


def weight_masks(scores: WeightScores, kept_fraction: float, scope: Scope) -> dict[str, Tensor]:
    """Masks that keep a share of the weights: those of the highest scores.

    Weights that were removed before stay removed if the network is pruned again, since weights of 0 have the lowest
    score by every criterion but random.

    Args:
        scores: of `weight_importance`.
        kept_fraction: share of the weights that stay, 0..1.
        scope: local: that share of every layer, at least one weight each; global: of all layers together, of which
            some may lose all weights.

    Returns:
        Weight name -> bool tensor of the weight's shape.

    References:
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
    """The share of the layers' weights with which the network has `params_target` parameters.

    Args:
        space: search space of the network.
        params_target: number of parameters, biases and norms included.

    Raises:
        ConfigError: biases and norms alone are as many.
    """
    whole = sum(math.prod(tensor.shape) for tensor in space.tensors if tensor.parameter)
    weights = sum(math.prod(layer.shape) for layer in space.layers)
    if params_target <= whole - weights:
        raise ConfigError(
            f"single weights cannot be pruned to {params_target} parameters: {whole - weights} are biases and norms, "
            "which are not pruned; raise the target"
        )
    return min(1.0, (params_target - (whole - weights)) / weights)


def _highest(values: Tensor, count: int) -> Tensor:
    """Whether each value is one of the `count` highest; of equal ones the first. Returns bool of their shape."""
    order = np.argsort(-values.reshape(-1).numpy(), kind="stable")
    stays = torch.zeros(values.numel(), dtype=torch.bool)
    stays[torch.from_numpy(order[:count])] = True
    return stays.reshape(values.shape)
