"""Criteria of a user's own: two that work, and one for every mistake."""

from typing import Any

import numpy as np

import evoprune as ep


def spread(context: ep.CriterionContext) -> np.ndarray:
    """The standard deviation of each filter's weights: a plain function."""
    values = np.zeros(context.space.maps)
    weights = dict(context.model.named_parameters())
    for axis in context.space.axes:
        if axis.dim == 0 and axis.tensor in weights and weights[axis.tensor].dim() > 1:
            deviation = weights[axis.tensor].detach().flatten(1).std(1).numpy()
            values[axis.gene[axis.gene >= 0]] = deviation[axis.gene >= 0]
    return values


class Spread(ep.Criterion):
    """As `spread`."""

    normalisation = "largest"

    def maps(self, context: ep.CriterionContext) -> list[ep.LayerValues]:
        values = spread(context)
        groups = [np.arange(context.space.maps)[group.genes] for group in context.space.groups]
        return [ep.LayerValues(genes, values[genes]) for genes in groups]


def every_gene(context: ep.CriterionContext) -> np.ndarray:
    """Later genes are more important."""
    return np.arange(context.space.genes, dtype=float)


def raises(context: ep.CriterionContext) -> np.ndarray:
    raise RuntimeError("no value")


def shorter(context: ep.CriterionContext) -> np.ndarray:
    return spread(context)[1:]


def not_finite(context: ep.CriterionContext) -> np.ndarray:
    values = spread(context)
    values[2] = np.nan
    return values


def texts(context: ep.CriterionContext) -> Any:
    return ["a"] * context.space.maps


class NotFinite(Spread):
    def maps(self, context: ep.CriterionContext) -> list[ep.LayerValues]:
        return [ep.LayerValues(np.arange(2), np.array([0.5, np.inf]))]


class OtherMaps(Spread):
    def maps(self, context: ep.CriterionContext) -> list[ep.LayerValues]:
        return [ep.LayerValues(np.array([0, 10_000]), np.ones(2))]


class OtherShapes(Spread):
    def maps(self, context: ep.CriterionContext) -> list[ep.LayerValues]:
        return [ep.LayerValues(np.arange(3), np.ones(2))]


class Array(Spread):
    def maps(self, context: ep.CriterionContext) -> Any:
        return spread(context)


class Kernels(Spread):
    def kernels(self, context: ep.CriterionContext) -> list[np.ndarray]:
        return [np.ones(3)]


class Another:
    """No criterion."""


NOT_CALLABLE = 5


class Saliency(ep.WeightCriterion):
    """|weight x gradient| of the mean loss; as the criterion taylor for single weights."""

    needs_labels = True

    def weights(self, context: ep.CriterionContext) -> Any:
        state = context.model.state_dict()
        return {name: (state[name] * gradient).abs() for name, gradient in context.gradients().items()}
