"""Criteria of importance by name: one registry for rankings, first candidates and mutations."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from evoprune.config.choices import CriterionName
from evoprune.criteria.criterion import Criterion, CriterionContext, WeightCriterion
from evoprune.criteria.curvature import OptimalBrainDamage
from evoprune.criteria.data_criteria import MeanActivation, NonzeroShare, Taylor
from evoprune.criteria.elimination import BackwardElimination
from evoprune.criteria.importance import Normalisation, WeightScores, merge_layers
from evoprune.criteria.oracle import Oracle
from evoprune.criteria.synflow import SynFlow
from evoprune.criteria.weight_criteria import L1, L2, BatchNormScale, Random, filter_l1
from evoprune.errors import ConfigError

CRITERIA: Mapping[CriterionName, Criterion] = MappingProxyType(
    {
        "elimination": BackwardElimination(),
        "l1": L1(),
        "l2": L2(),
        "mean_activation": MeanActivation(),
        "zeros": NonzeroShare(),
        "batch_norm_scale": BatchNormScale(),
        "taylor": Taylor(),
        "oracle": Oracle(),
        "obd": OptimalBrainDamage(),
        "synflow": SynFlow(),
        "random": Random(),
    }
)


def map_importance(
    name: CriterionName, context: CriterionContext, normalisation: Normalisation | None = None
) -> np.ndarray:
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
    """
    criterion = CRITERIA[name]
    normalisation = normalisation or criterion.normalisation
    importance = merge_layers(context.space, criterion.maps(context), normalisation, criterion.additive)
    missing = np.isnan(importance)
    if missing.any():
        if missing.all():
            raise ConfigError(f"the criterion {name} has no values for this network's feature maps; take l1")
        norms = merge_layers(context.space, filter_l1(context.model, context.space), "largest")[missing]
        importance[missing] = importance[~missing].mean() * norms / max(norms.mean(), np.finfo(float).tiny)
    return importance


def weight_importance(name: CriterionName, context: CriterionContext) -> WeightScores:
    """The importance of every single weight of every layer.

    Raises:
        ConfigError: the criterion is not defined for single weights.
    """
    criterion = CRITERIA[name]
    if not isinstance(criterion, WeightCriterion):
        defined = ", ".join(name for name, criterion in CRITERIA.items() if isinstance(criterion, WeightCriterion))
        raise ConfigError(f"the criterion {name} is not defined for single weights; take one of {defined}")
    return criterion.weights(context)


def kernel_importance(name: CriterionName, context: CriterionContext) -> list[np.ndarray]:
    """The importance of kernel genes: float64 (genes,) for every entry of `space.kernels`."""
    return CRITERIA[name].kernels(context) if context.space.kernels else []


def stride_importance(name: CriterionName, context: CriterionContext) -> list[np.ndarray]:
    """The share of importance that each stride mask keeps, as `mask_shares`, for every entry of `space.strides`."""
    return CRITERIA[name].strides(context) if context.space.strides else []
