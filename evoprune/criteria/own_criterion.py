"""Criteria of the user's own: their calls are checked, and a plain function is enough."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from evoprune.criteria.criterion import Criterion, CriterionContext
from evoprune.criteria.importance import LayerValues
from evoprune.errors import PluginError
from evoprune.plugins.guard import Checks, guarded, plugin_call, plugin_error
from evoprune.plugins.kinds import CRITERIA


def own_criterion(reference: str, found: Any) -> Criterion:
    """A criterion of the user's own.

    Args:
        reference: its name in the config, `module:attribute`.
        found: a subclass of `Criterion`, an object of one, or a function of a context.

    Raises:
        PluginError: it is nothing of these, or its constructor fails.
    """
    if isinstance(found, type) and issubclass(found, Criterion):
        with plugin_call(CRITERIA.key, reference, "its constructor"):
            found = found()
    if isinstance(found, Criterion):
        return guarded(found, CRITERIA.key, reference, _CHECKS)
    if isinstance(found, type) or not callable(found):
        raise PluginError(
            f"{CRITERIA.key}: {reference} must be a subclass of ep.Criterion or a function of a context, not "
            f"{found.__name__ if isinstance(found, type) else f'a {type(found).__name__}'}"
        )
    return _FunctionCriterion(reference, found)


class _FunctionCriterion(Criterion):
    """A function of a context that returns a value for each feature map, or for each gene."""

    def __init__(self, reference: str, function: Callable[[CriterionContext], Any]):
        self._reference = reference
        self._function = function
        self._last: tuple[CriterionContext, np.ndarray] | None = None
        self.needs_labels = bool(getattr(function, "needs_labels", False))

    def maps(self, context: CriterionContext) -> list[LayerValues]:
        """As `Criterion.maps`: groups are compared as the function values them."""
        return [LayerValues(np.arange(context.space.maps), self._values(context)[: context.space.maps])]

    def kernels(self, context: CriterionContext) -> list[np.ndarray]:
        """As `Criterion.kernels`: by the function if it values all genes, else by the magnitude of the weights."""
        values = self._values(context)
        if len(values) == context.space.maps:
            return super().kernels(context)
        return [values[part.genes] for part in context.space.kernels]

    def _values(self, context: CriterionContext) -> np.ndarray:
        if self._last is not None and self._last[0] is context:
            return self._last[1]
        with plugin_call(CRITERIA.key, self._reference, "its call"):
            values = np.asarray(self._function(context), dtype=np.float64)
        maps, genes = context.space.maps, context.space.genes
        if values.shape not in ((maps,), (genes,)):
            expected = f"one for each feature map, ({maps},)" + (f", or gene, ({genes},)" if genes > maps else "")
            raise self._error(f"returned values of shape {values.shape}, not {expected}")
        if (bad := np.flatnonzero(~np.isfinite(values))).size:
            raise self._error(f"returned {values[bad[0]]} for gene {bad[0]}, not a finite number")
        self._last = context, values
        return values

    def _error(self, problem: str) -> PluginError:
        return plugin_error(CRITERIA.key, self._reference, "its call", problem)


def _check_maps(result: Any, context: CriterionContext) -> str | None:
    if not isinstance(result, list) or not all(isinstance(layer, LayerValues) for layer in result):
        return "must return a list of LayerValues"
    maps = context.space.maps
    for layer in result:
        genes, values = np.asarray(layer.gene), np.asarray(layer.values)
        if genes.shape != values.shape or genes.ndim != 1 or not np.issubdtype(genes.dtype, np.integer):
            return f"returned genes {genes.dtype} {genes.shape} with values {values.shape}, not as many, (n,) each"
        if len(genes) and not (genes.min() >= 0 and genes.max() < maps):
            return f"returned a value for map {genes.max()}, and there are {maps}, counted from 0"
        if not np.isfinite(values).all():
            return f"returned {values[~np.isfinite(values)][0]} for a map, not a finite number"
    return None


def _check_parts(result: Any, parts: tuple[Any, ...], columns: bool) -> str | None:
    """The check of values for every entry of `space.kernels` or `space.strides`."""
    if not isinstance(result, list) or len(result) != len(parts):
        return f"must return a list of {len(parts)} arrays"
    for values, part in zip(result, parts, strict=True):
        expected = (part.size, len(part.table)) if columns else (part.size,)
        if np.shape(values) != expected or not np.isfinite(values).all():
            return f"must return finite values {expected} for {part.weight}"
    return None


def _check_weights(result: Any, context: CriterionContext) -> str | None:
    for layer in context.space.layers:
        scores = result.get(layer.weight) if isinstance(result, Mapping) else None
        if scores is None or tuple(scores.shape) != tuple(layer.shape) or not scores.isfinite().all():
            return f"must return finite values {tuple(layer.shape)} for {layer.weight}"
    return None


_CHECKS: Checks = (
    ("maps", _check_maps),
    ("kernels", lambda result, context: _check_parts(result, context.space.kernels, columns=False)),
    ("strides", lambda result, context: _check_parts(result, context.space.strides, columns=True)),
    ("weights", _check_weights),
)
