"""Parts of a network that did not run on the example input: the maps that they may read stay whole.

An early exit, a router, or a branch that an argument chooses leaves parts of a network aside. They are not followed, so
nothing is known of what they read. Data comes to a module through the forward of the one that holds it; so all maps
that this forward has seen, in a number that fits the part's parameters, stay whole. A part that the code of this
forward does not name (the head of a network whose forward was replaced) cannot run, and keeps nothing.
"""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

from torch import Tensor, nn

from evoprune.discovery.forward_code import may_name
from evoprune.discovery.labels import MapLabels, varying_dims
from evoprune.discovery.tracing import Tracer
from evoprune.space.plan import Frozen

DID_NOT_RUN = "it did not run on the example input"


def freeze_around_unrun(labels: MapLabels, network: nn.Module, tracers: Sequence[Tracer]) -> tuple[Frozen, ...]:
    """Keeps the maps whole that parts which did not run may read, and returns these parts.

    Args:
        labels: Changed in place.
        network: The network.
        tracers: Have followed it in all ways in which it runs.
    """
    read = {name for tracer in tracers for name in tracer.read}
    seen: dict[str, list[Tensor]] = {}
    for tracer in tracers:
        for module, shadows in tracer.seen.items():
            seen.setdefault(module, []).extend(shadows)
    unread = [name for name, _ in network.named_parameters() if name not in read]
    parts = dict.fromkeys(_part_and_holder(name, read, seen.keys()) for name in unread)
    for part, holder in parts:
        attribute = part.removeprefix(f"{holder}.").partition(".")[0]
        if may_name(network.get_submodule(holder), attribute):
            reason = f"{part}, which did not run, may read it"
            _freeze_fitting(labels, seen[holder], _sizes(network, part), reason)
    return tuple(Frozen(part, DID_NOT_RUN) for part, _ in parts)


def _part_and_holder(parameter: str, read: Set[str], ran: Set[str]) -> tuple[str, str]:
    """The largest part around a parameter of which nothing was read, and the module whose forward leaves it aside."""
    path = parameter.split(".")
    holder = max(length for length in range(len(path)) if ".".join(path[:length]) in ran)
    for length in range(holder + 1, len(path)):
        part = ".".join(path[:length])
        if not any(name.startswith(f"{part}.") for name in read):
            return part, ".".join(path[:holder])
    return parameter, ".".join(path[:holder])


@dataclass(frozen=True)
class _Sizes:
    """Numbers of maps that a part may make, and that it may read."""

    made: set[int]
    read: set[int]


def _sizes(network: nn.Module, part: str) -> _Sizes:
    """The sizes of a part's parameters, in all groups of a convolution."""
    sizes = _Sizes(set(), set())
    for name, parameter in network.named_parameters():
        if name == part or name.startswith(f"{part}."):
            groups = getattr(network.get_submodule(name.rpartition(".")[0]), "groups", 1)
            sizes.made.update(parameter.shape[:1])
            if parameter.ndim > 1:
                sizes.read.update(size * times for size in parameter.shape[:2] for times in (1, groups))
    return sizes


def _freeze_fitting(labels: MapLabels, shadows: Sequence[Tensor], sizes: _Sizes, reason: str) -> None:
    """Freezes tensors whose maps, pixels and maps together, or maps beside those of another one, have such a size."""
    maps = {id(shadow): _number_of_maps(labels.resolve(shadow)) for shadow in shadows}
    widths = set(maps.values()) - {0}
    for shadow in shadows:
        width = maps[id(shadow)]
        read = {width, math.prod(shadow.shape[1:]), *(width + other for other in widths)}
        if width and (width in sizes.made or read & sizes.read):
            labels.freeze(shadow, reason)


def _number_of_maps(shadow: Tensor) -> int:
    return max((shadow.shape[dim] for dim in varying_dims(shadow)), default=0)
