"""Preferences of the variation operators: which maps, kernels and taps rather stay."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from evoprune.criteria import elimination
from evoprune.criteria.criterion import CriterionContext
from evoprune.criteria.importance import filter_l1, kernel_values, magnitude, mask_shares, merge_layers
from evoprune.criteria.importance_by_name import find_criterion, importance_of_maps
from evoprune.errors import ConfigError
from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class Preferences:
    """Importance of genes within their group or layer.

    Attributes:
        maps: float (maps,), rank of each map within its group: 0 the least important, 1 the most.
        kernels: float (genes,), rank within the layer, for every entry of `space.kernels`.
        strides: float (genes, masks), the share of a kernel's importance that each mask keeps, for every entry of
            `space.strides`.
        importance: float (maps,), the importance behind the ranks of maps, to rank groups together.
    """

    maps: np.ndarray
    kernels: tuple[np.ndarray, ...]
    strides: tuple[np.ndarray, ...]
    importance: np.ndarray

    @property
    def genes(self) -> np.ndarray:
        """Importance of every gene for `SearchSpace.repair`: float (genes,), 0 for strides, which repair leaves."""
        return np.concatenate((self.maps, *self.kernels, *(np.zeros(len(values)) for values in self.strides)))


def preferences_of(choice: str, context: CriterionContext) -> Preferences:
    """Preferences by a criterion; kernels and taps by the weights' magnitude if the criterion does not define them.

    Args:
        choice: name of a criterion, or auto: elimination, which ranks best with and without compensation, or l1 if
            elimination has no values for this network.
        context: input of the criterion.

    Raises:
        ConfigError: as `map_importance`.
    """
    if choice == "auto":
        try:
            return _preferences_by("elimination", context)
        except ConfigError:
            return _preferences_by("l1", context)
    return _preferences_by(choice, context)


def expected_seconds(choice: str, space: SearchSpace) -> float:
    """About how long `preferences_of` takes; 0 for criteria other than elimination, which are not predicted."""
    return elimination.expected_seconds(space, torch.get_num_threads()) if choice in ("auto", "elimination") else 0.0


def _preferences_by(name: str, context: CriterionContext) -> Preferences:
    space, criterion = context.space, find_criterion(name)
    importance = importance_of_maps(criterion, name, context) if space.maps else np.zeros(0)
    return Preferences(
        maps=group_ranks(space, importance),
        kernels=tuple(ranks(values) for values in (criterion.kernels(context) if space.kernels else ())),
        strides=tuple(criterion.strides(context) if space.strides else ()),
        importance=importance,
    )


def magnitude_preferences(model: nn.Module, space: SearchSpace) -> Preferences:
    """Preferences by the weights' magnitude, as of the criterion l1, without examples."""
    scores = magnitude(model, space)
    importance = merge_layers(space, filter_l1(model, space), "largest")
    return Preferences(
        maps=group_ranks(space, importance),
        kernels=tuple(ranks(values) for values in kernel_values(space, scores)),
        strides=tuple(mask_shares(space, scores)),
        importance=importance,
    )


def group_ranks(space: SearchSpace, importance: np.ndarray) -> np.ndarray:
    """Each map's rank within its group as a share: 0 the least important, 1 the most. float64 (maps,)."""
    found = np.zeros(space.maps)
    for group in space.groups:
        found[group.genes] = ranks(importance[group.genes])
    return found


def ranks(importance: np.ndarray) -> np.ndarray:
    """The rank of each value of a vector as a share: 0 the lowest, 1 the highest."""
    found = np.zeros(len(importance))
    found[np.argsort(importance, kind="stable")] = np.linspace(0, 1, len(importance))
    return found
