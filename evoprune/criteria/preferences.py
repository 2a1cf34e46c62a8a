"""Preferences: which maps, kernels and taps the operators keep first."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from evoprune.config.schema import CriterionChoice, CriterionName
from evoprune.criteria import weight_criteria as weights
from evoprune.criteria.importance import CriterionContext, of_genes, of_kernels, of_strides
from evoprune.criteria.registry import kernel_importance, map_importance, stride_importance
from evoprune.errors import ConfigError
from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class Preferences:
    """What operators should rather keep. Ranks are within a group or layer: 0 the least important, 1 the most.

    maps: float (maps,). kernels, strides: one array for each entry of `space.kernels` and `space.strides`:
    float (genes,), and float (genes, values), what share of a kernel's importance each mask keeps.
    importance: float (maps,), what the ranks are of: to rank groups together.
    """

    maps: np.ndarray
    kernels: tuple[np.ndarray, ...]
    strides: tuple[np.ndarray, ...]
    importance: np.ndarray

    @property
    def genes(self) -> np.ndarray:
        """Importance of every gene, for `SearchSpace.repair`. float (genes,); strides, which repair leaves, have 0."""
        return np.concatenate((self.maps, *self.kernels, *(np.zeros(len(values)) for values in self.strides)))


def preferences_of(choice: CriterionChoice, context: CriterionContext) -> Preferences:
    """Preferences by a criterion, and by the weights' magnitude where it says nothing of kernels or taps.

    auto: elimination, which ranks best whether scores are compensated or not; by the magnitude where it says nothing.
    Raises ConfigError as `map_importance`.
    """
    if choice == "auto":
        try:
            return _preferences_by("elimination", context)
        except ConfigError:
            return _preferences_by("l1", context)
    return _preferences_by(choice, context)


def _preferences_by(name: CriterionName, context: CriterionContext) -> Preferences:
    space = context.space
    importance = map_importance(name, context) if space.maps else np.zeros(0)
    return Preferences(
        maps=group_ranks(space, importance),
        kernels=tuple(_ranks(values) for values in kernel_importance(name, context)),
        strides=tuple(stride_importance(name, context)),
        importance=importance,
    )


def magnitude_preferences(model: nn.Module, space: SearchSpace) -> Preferences:
    """Preferences by the weights' magnitude alone, which needs no examples: those of the criterion l1."""
    scores = weights.magnitude(model, space)
    importance = of_genes(space, weights.filter_l1(model, space), "largest")
    return Preferences(
        maps=group_ranks(space, importance),
        kernels=tuple(_ranks(values) for values in of_kernels(space, scores)),
        strides=tuple(of_strides(space, scores)),
        importance=importance,
    )


def group_ranks(space: SearchSpace, importance: np.ndarray) -> np.ndarray:
    """Each gene's rank within its group as a share: 0 the least important, 1 the most. float64 (maps,)."""
    ranks = np.zeros(space.maps)
    for group in space.groups:
        ranks[group.genes] = _ranks(importance[group.genes])
    return ranks


def _ranks(importance: np.ndarray) -> np.ndarray:
    """Ranks as shares, 0..1, of a vector."""
    ranks = np.zeros(len(importance))
    ranks[np.argsort(importance, kind="stable")] = np.linspace(0, 1, len(importance))
    return ranks
