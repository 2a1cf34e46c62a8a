"""Criteria of importance by name: one registry for rankings, starts and mutations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from evoprune.config.schema import CriterionName
from evoprune.criteria import data_criteria as data
from evoprune.criteria import synflow
from evoprune.criteria import weight_criteria as weights
from evoprune.criteria.importance import (
    CriterionContext,
    LayerValues,
    Normalisation,
    WeightScores,
    of_genes,
    of_kernels,
    of_strides,
)
from evoprune.errors import ConfigError


@dataclass(frozen=True)
class Criterion:
    """How important parts are, higher is more.

    maps: what each layer says of its feature maps. kernels, weights: of kernels (where None, the mean over their
    weights) and of single weights, None where it is not defined for them.
    normalisation: what makes layers comparable, for global scope. additive: what a map's layers say is added up, not
    averaged. labels: it looks at the images' labels.
    """

    maps: Callable[[CriterionContext], list[LayerValues]]
    normalisation: Normalisation
    kernels: Callable[[CriterionContext], list[np.ndarray]] | None = None
    weights: Callable[[CriterionContext], WeightScores] | None = None
    additive: bool = False
    labels: bool = False


def _order_of_maps(context: CriterionContext) -> list[LayerValues]:
    """SynFlow's order as values; maps that go together have one place in it."""
    return [
        LayerValues(np.arange(context.space.maps), synflow.synflow_maps(context.model, context.space, _shape(context)))
    ]


CRITERIA: Mapping[CriterionName, Criterion] = MappingProxyType(
    {
        "elimination": Criterion(maps=data.elimination, normalisation="none"),
        "l1": Criterion(
            maps=lambda s: weights.filter_l1(s.model, s.space),
            weights=lambda s: weights.magnitude(s.model, s.space),
            normalisation="largest",
        ),
        "l2": Criterion(
            maps=lambda s: weights.filter_l2(s.model, s.space),
            weights=lambda s: weights.squared_magnitude(s.model, s.space),
            normalisation="largest",
        ),
        "mean_activation": Criterion(maps=data.mean_activation, normalisation="l2"),
        "zeros": Criterion(maps=data.nonzero_share, normalisation="none"),
        "batch_norm_scale": Criterion(maps=lambda s: weights.batch_norm_scale(s.model, s.space), normalisation="none"),
        "taylor": Criterion(maps=data.taylor, weights=data.taylor_of_weights, normalisation="l2", labels=True),
        "oracle": Criterion(maps=data.oracle, kernels=data.oracle_of_kernels, normalisation="none", labels=True),
        "obd": Criterion(maps=data.obd, weights=data.obd_of_weights, normalisation="none", additive=True),
        "synflow": Criterion(
            maps=_order_of_maps,
            kernels=lambda s: synflow.synflow_kernels(s.model, s.space, _shape(s)),
            weights=lambda s: synflow.synflow_weights(s.model, s.space, _shape(s)),
            normalisation="none",
        ),
        "random": Criterion(
            maps=lambda s: weights.random_maps(s.space, s.rng),
            weights=lambda s: weights.random_weights(s.space, s.rng),
            normalisation="none",
        ),
    }
)


def map_importance(
    name: CriterionName, context: CriterionContext, normalisation: Normalisation | None = None
) -> np.ndarray:
    """The importance of every feature map: float64 (maps,).

    normalisation: another than the criterion's own. Maps of which it says nothing (without batch norm, or behind
    layers that cannot be watched) are ranked by their L1 norm, at the mean of what it says of the others.
    Raises ConfigError where it says nothing of any map.
    """
    criterion = CRITERIA[name]
    said = of_genes(
        context.space, criterion.maps(context), normalisation or criterion.normalisation, criterion.additive
    )
    unknown = np.isnan(said)
    if unknown.any():
        if unknown.all():
            raise ConfigError(f"the criterion {name} says nothing of this network's feature maps; take l1")
        norms = of_genes(context.space, weights.filter_l1(context.model, context.space), "largest")[unknown]
        said[unknown] = said[~unknown].mean() * norms / max(norms.mean(), np.finfo(float).tiny)
    return said


def weight_importance(name: CriterionName, context: CriterionContext) -> WeightScores:
    """The importance of every single weight of every layer. Raises ConfigError where it is not defined."""
    criterion = CRITERIA[name]
    if criterion.weights is None:
        known = ", ".join(name for name, criterion in CRITERIA.items() if criterion.weights)
        raise ConfigError(f"the criterion {name} is not defined for single weights; take one of {known}")
    return criterion.weights(context)


def kernel_importance(name: CriterionName, context: CriterionContext) -> list[np.ndarray]:
    """The importance of the genes of every entry of `space.kernels`: float64 (genes,) each; by L1 where undefined."""
    if not context.space.kernels:
        return []
    if (kernels := CRITERIA[name].kernels) is not None:
        return kernels(context)
    return of_kernels(context.space, (CRITERIA[name].weights or _magnitude)(context))


def stride_importance(name: CriterionName, context: CriterionContext) -> list[np.ndarray]:
    """What share each stride mask would keep of the weights' importance, as `of_strides`; by L1 where undefined."""
    if not context.space.strides:
        return []
    return of_strides(context.space, (CRITERIA[name].weights or _magnitude)(context))


def _magnitude(context: CriterionContext) -> WeightScores:
    return weights.magnitude(context.model, context.space)


def _shape(context: CriterionContext) -> tuple[int, ...]:
    """(c, h, w) of the subject's images."""
    return tuple(context.images.shape[1:])
