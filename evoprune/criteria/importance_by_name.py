"""Criteria of importance by name, for rankings, first candidates and mutations.

Importing this file registers the built-in ones.
"""

import numpy as np

from evoprune.criteria import (
    batch_norm_scale,
    curvature,
    elimination,
    l1,
    l2,
    mean_activation,
    nonzero_share,
    oracle,
    random_values,
    synflow,
    taylor,
)
from evoprune.criteria.criterion import Criterion, CriterionContext, WeightCriterion
from evoprune.criteria.importance import Normalisation, WeightScores, filter_l1, merge_layers
from evoprune.criteria.own_criterion import own_criterion
from evoprune.errors import ConfigError
from evoprune.plugins.guard import is_own
from evoprune.plugins.kinds import CRITERIA

__all__ = [
    "CRITERIA",
    "batch_norm_scale",
    "curvature",
    "elimination",
    "l1",
    "l2",
    "mean_activation",
    "nonzero_share",
    "oracle",
    "random_values",
    "synflow",
    "taylor",
]


def find_criterion(name: str) -> Criterion:
    """The criterion of a name in `CRITERIA`, or the one that `module:attribute` names.

    Raises:
        ConfigError: there is none.
        PluginError: it is none, or its constructor fails.
    """
    found = CRITERIA.find(name)
    if is_own(name):
        return own_criterion(name, found)
    criterion: Criterion = found()
    return criterion


def map_importance(name: str, context: CriterionContext, normalisation: Normalisation | None = None) -> np.ndarray:
    """The importance of every feature map.

    Maps that the criterion does not value (without batch norm, or read by layers that cannot be watched) are ranked by
    their L1 norm; their mean importance is that of the others.

    Args:
        name: the criterion.
        context: its input.
        normalisation: another one than the criterion's own.

    Returns:
        float64 (maps,).

    Raises:
        ConfigError: the criterion values no map of this network.
        PluginError: a criterion of the user's own fails.
    """
    return importance_of_maps(find_criterion(name), name, context, normalisation)


def importance_of_maps(
    criterion: Criterion, name: str, context: CriterionContext, normalisation: Normalisation | None = None
) -> np.ndarray:
    """As `map_importance`, by a criterion of that name."""
    normalisation = normalisation or criterion.normalisation
    importance = merge_layers(context.space, criterion.maps(context), normalisation, criterion.additive)
    missing = np.isnan(importance)
    if missing.any():
        if missing.all():
            raise ConfigError(f"the criterion {name} has no values for this network's feature maps; take l1")
        norms = merge_layers(context.space, filter_l1(context.model, context.space), "largest")[missing]
        importance[missing] = importance[~missing].mean() * norms / max(norms.mean(), np.finfo(float).tiny)
    return importance


def weight_importance(name: str, context: CriterionContext) -> WeightScores:
    """The importance of every single weight of every layer.

    Raises:
        ConfigError: the criterion is not defined for single weights.
    """
    criterion = find_criterion(name)
    if not isinstance(criterion, WeightCriterion):
        defined = ", ".join(name for name in CRITERIA.names if issubclass(CRITERIA.find(name), WeightCriterion))
        raise ConfigError(f"the criterion {name} is not defined for single weights; take one of {defined}")
    return criterion.weights(context)


def kernel_importance(name: str, context: CriterionContext) -> list[np.ndarray]:
    """The importance of kernel genes: float64 (genes,) for every entry of `space.kernels`."""
    return find_criterion(name).kernels(context) if context.space.kernels else []


def stride_importance(name: str, context: CriterionContext) -> list[np.ndarray]:
    """The share of importance that each stride mask keeps, as `mask_shares`, for every entry of `space.strides`."""
    return find_criterion(name).strides(context) if context.space.strides else []
