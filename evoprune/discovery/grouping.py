"""Grouping: from the labels of a followed network to genes, their axes, and the layers that stay whole."""

import fnmatch
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evoprune.config.schema import SpaceConfig
from evoprune.discovery.labels import CONSTANT, MapLabels
from evoprune.errors import SearchSpaceError
from evoprune.space.plan import Axis, Frozen, Group, Layer

Place = tuple[str, int]
"""One dimension of a tensor: the tensor's name and the dimension."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """The genes of feature maps. frozen: layers that stay whole, with reasons. gene_of: class of labels -> gene."""

    groups: tuple[Group, ...]
    axes: tuple[Axis, ...]
    frozen: tuple[Frozen, ...]
    gene_of: Mapping[int, int]

    def genes(self, classes: np.ndarray) -> np.ndarray:
        """The gene of each class of labels, int32 of the same shape, -1 if it always stays. classes: int64 (n,)."""
        return np.array([self.gene_of.get(root, -1) for root in classes.tolist()], dtype=np.int32)


def freeze_kept_layers(labels: MapLabels, layers: Sequence[Layer], options: SpaceConfig) -> None:
    """Freezes the layers that the options keep whole. Raises SearchSpaceError if a pattern matches no layer."""
    for pattern in options.keep:
        if not any(fnmatch.fnmatchcase(layer.name, pattern) for layer in layers):
            names = ", ".join(layer.name for layer in layers[:6])
            raise SearchSpaceError(f"space.keep: {pattern} names no layer; there are {names} ...")
    first = next((layer.name for layer in layers if "convolution" in layer.kind), None)
    for layer in layers:
        rows = labels.axes.get((layer.weight, layer.out_dim))
        if rows is None:
            continue
        if not options.feature_maps:
            labels.freeze(rows, "space.feature_maps is false")
        elif options.keep_first_conv and layer.name == first:
            labels.freeze(rows, "space.keep_first_conv keeps it")
        elif named := [pattern for pattern in options.keep if fnmatch.fnmatchcase(layer.name, pattern)]:
            labels.freeze(rows, f"space.keep names it ({named[0]})")


def group(labels: MapLabels, layers: Sequence[Layer], options: SpaceConfig) -> Grouping:
    """Makes a gene of each class of labels that can be removed, and a group of all classes along the same axes."""
    roots = {place: labels.resolve(axis).numpy() for place, axis in labels.axes.items()}
    producers = {(layer.weight, layer.out_dim): layer.name for layer in layers}
    removable, frozen = _removable_classes(labels, roots, producers)
    gene_of: dict[int, int] = {}
    groups: list[Group] = []
    for places, classes in removable.items():
        names = tuple(dict.fromkeys(producers[place] for place in places if place in producers))
        reason = _indivisible(len(classes), options)
        if reason is not None:
            frozen = dict.fromkeys(names, reason) | frozen
            continue
        name, start = _unique_name(names, groups), len(gene_of)
        groups.append(Group(name, start, len(classes), names, max(options.min_maps, 1), options.round_to))
        gene_of |= {root: start + place for place, root in enumerate(classes)}
    return Grouping(
        tuple(groups), _axes(roots, gene_of), tuple(Frozen(name, reason) for name, reason in frozen.items()), gene_of
    )


def _removable_classes(
    labels: MapLabels, roots: dict[Place, np.ndarray], producers: dict[Place, str]
) -> tuple[dict[tuple[Place, ...], list[int]], dict[str, str]]:
    """Classes of the maps that layers make: removable ones by the places where they lie, and frozen layers' reasons."""
    places_of: dict[int, list[Place]] = defaultdict(list)
    for place, classes in roots.items():
        for root in np.unique(classes).tolist():
            places_of[root].append(place)
    removable: dict[tuple[Place, ...], dict[int, None]] = {}  # classes in order, each once
    frozen: dict[str, str] = {}
    for place, layer in producers.items():
        for root in dict.fromkeys(roots.get(place, np.zeros(0, int)).tolist()):
            reason = labels.reason(root) if root != CONSTANT else "it goes together with something constant"
            if reason is None:
                removable.setdefault(tuple(places_of[root]), {})[root] = None
            else:
                frozen.setdefault(layer, reason)
    return {places: list(classes) for places, classes in removable.items()}, frozen


def _axes(roots: dict[Place, np.ndarray], gene_of: dict[int, int]) -> tuple[Axis, ...]:
    axes = []
    for (tensor, dim), classes in roots.items():
        gene = np.array([gene_of.get(root, -1) for root in classes.tolist()], dtype=np.int32)
        if (gene >= 0).any():
            axes.append(Axis(tensor, dim, gene))
    return tuple(axes)


def _indivisible(size: int, options: SpaceConfig) -> str | None:
    """The reason that a group of so many genes has no smaller width; None if it has one."""
    if size < 2:
        return "its maps can only go all together"
    if size <= options.min_maps:
        return f"it has no more than the {options.min_maps} maps of space.min_maps"
    if size <= options.round_to:
        return f"it has no more than the {options.round_to} maps of space.round_to"
    return None


def _unique_name(layers: tuple[str, ...], groups: Sequence[Group]) -> str:
    """The name of a group: its layer, or its first layer and the number of others; numbered if it is taken."""
    name = layers[0] if len(layers) == 1 else f"{layers[0]} (+{len(layers) - 1})"
    taken = {group.name for group in groups}
    if name not in taken:
        return name
    return next(f"{name} #{i}" for i in range(2, len(taken) + 3) if f"{name} #{i}" not in taken)
