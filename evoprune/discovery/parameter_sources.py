"""Elements of parameters that other tensors hold: rows of an embedding, slices of a table of positions.

A parameter of several dimensions belongs to no feature map by itself. If its elements meet feature maps, the maps lie
along one of its dimensions, which can then be cut with them. To find that dimension, a tensor that is made of a
parameter's elements has, for each of the parameter's dimensions, the position that each element was taken from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from evoprune.discovery.labels import CONSTANT, is_constant, labels_along, stored_once, varying_dims
from evoprune.discovery.tracing import Call, Tracer

ABSENT = -1
"""The position of elements that do not come from the parameter."""

REASON = "a parameter is shared with something constant"

MOVES = frozenset(
    {"view", "_unsafe_view", "reshape", "_reshape_alias", "alias", "detach", "permute", "transpose", "t", "expand"}
    | {"squeeze", "unsqueeze", "repeat", "tile", "flip", "movedim", "unbind", "squeeze_copy", "lift_fresh", "select"}
    | {"index", "index_select", "slice", "split", "split_with_sizes", "embedding"}
)
"""Operations that only move elements of one tensor."""

COPIES = frozenset({"clone", "_to_copy", "contiguous"})


@dataclass(frozen=True, eq=False)
class Source:
    """The elements of one parameter in a tensor.

    Attributes:
        parameter: Its name.
        shape: Its shape.
        positions: Dimension of the parameter -> position along it of each element, int64 of the tensor's shape.
    """

    parameter: str
    shape: tuple[int, ...]
    positions: Mapping[int, Tensor]

    def moved(self, change: Callable[[Tensor], Tensor]) -> "Source":
        """The source of a tensor whose elements were moved."""
        positions = {dim: stored_once(change(places)) for dim, places in self.positions.items()}
        return Source(self.parameter, self.shape, positions)

    def dim_along(self, dim: int) -> tuple[int, Tensor] | None:
        """The dimension of the parameter that lies along `dim` of the tensor, and its positions there: int64 (size,).

        None if there is none.
        """
        for own, places in self.positions.items():
            if varying_dims(places) == [dim]:
                return own, labels_along(places, dim)
        return None


def sources_of(tracer: Tracer, tensor: Tensor) -> tuple[Source, ...]:
    """The parameters that a tensor without labels is made of."""
    if tensor not in tracer.sources:
        name = tracer.name(tensor)
        several = sum(size > 1 for size in tensor.shape) > 1
        if name is None or not several or not tensor.is_floating_point():  # tables of positions are no maps
            return ()
        tracer.sources[tensor] = (_whole(name, tensor.shape),)
    return tracer.sources[tensor]


def _whole(name: str, shape: torch.Size) -> Source:
    positions = {}
    for dim, size in enumerate(shape):
        if size > 1:
            others = [-1 if other == dim else 1 for other in range(len(shape))]
            positions[dim] = torch.arange(size).reshape(others).expand(shape)
    return Source(name, tuple(shape), positions)


def follow_sources(tracer: Tracer, call: Call, args: tuple, kwargs: dict) -> None:
    """Sets the sources of a call's outputs, if the call only moves elements or changes them one by one."""
    holders = [tensor for tensor in call.tensors if sources_of(tracer, tensor)]
    if not holders or not is_constant(tracer.shadow(call.output)):
        return
    name = call.name.rstrip("_")
    if name in ("cat", "stack"):
        moved = [_in_a_row(call, source, holder) for holder in holders for source in sources_of(tracer, holder)]
        tracer.sources[call.output] = tuple(moved)
    elif name in MOVES and len(holders) == 1:
        for place, output in enumerate(call.outputs):
            change = _replayed(call, holders[0], args, kwargs, place)
            tracer.sources[output] = tuple(source.moved(change) for source in sources_of(tracer, holders[0]))
    elif torch.Tag.pointwise in call.overload.tags or name in COPIES:
        spread = [source for holder in holders for source in sources_of(tracer, holder)]
        tracer.sources[call.output] = tuple(
            source.moved(lambda places: places.expand(call.output.shape)) for source in spread
        )
    elif name.removeprefix("_").startswith(("upsample", "embedding_bag")):  # they mix pixels, or rows
        tracer.sources[call.output] = tuple(_mixed(source, call.output) for source in sources_of(tracer, holders[0]))


def _replayed(call: Call, holder: Tensor, args: tuple, kwargs: dict, place: int) -> Callable[[Tensor], Tensor]:
    """Moves positions as a call has moved the elements of `holder` to its output at `place`."""

    def change(places: Tensor) -> Tensor:
        if call.name == "embedding":
            return places[call.inputs["indices"]]
        if call.name in ("view", "_unsafe_view", "_reshape_alias"):  # the positions have their own memory layout
            return places.reshape(call.output.shape)
        given = tree_map(lambda value: places if value is holder else value, (args, kwargs))
        moved: Any = call.overload(*given[0], **given[1])
        return moved if isinstance(moved, Tensor) else moved[place]

    return change


def _in_a_row(call: Call, source: Source, holder: Tensor) -> Source:
    """The source in a concatenation, absent in its other parts."""

    def change(places: Tensor) -> Tensor:
        parts = [places if part is holder else torch.full(part.shape, ABSENT) for part in call.inputs["tensors"]]
        moved: Tensor = call.overload(parts, call.inputs.get("dim", 0))
        return moved

    return source.moved(change)


def _mixed(source: Source, output: Tensor) -> Source:
    """The source after elements were mixed along all dimensions but dimension 1."""
    positions = {
        dim: labels_along(places, 1).reshape(1, -1, *[1] * (output.ndim - 2)).expand(output.shape)
        for dim, places in source.positions.items()
        if varying_dims(places) == [1]
    }
    return Source(source.parameter, source.shape, positions)


def bind_sources(tracer: Tracer, tensor: Tensor, dim: int, labels: Tensor) -> bool:
    """Gives the parameters that a tensor is made of these labels, int64 (size,), along `dim` of the tensor.

    Returns:
        Whether there is a parameter, and each of them lies along this dimension.
    """
    found = [(source, source.dim_along(dim)) for source in sources_of(tracer, tensor)]
    if not found or any(along is None for _, along in found):
        return False
    for source, along in found:
        assert along is not None
        own, places = along
        axis, present = tracer.output_labels(source.parameter, own, source.shape[own]), places != ABSENT
        tracer.labels.merge(axis[places[present]], labels[present], REASON)
    return True


def labels_of_sources(tracer: Tracer, tensor: Tensor, dim: int) -> Tensor:
    """Labels of a tensor without labels whose parameters lie along `dim`: int64 of its shape."""
    shadow = tracer.shadow(tensor)
    for source in sources_of(tracer, tensor):
        along = source.dim_along(dim)
        if along is not None:
            own, places = along
            labels = tracer.output_labels(source.parameter, own, source.shape[own])
            here = torch.where(places == ABSENT, CONSTANT, labels[places.clamp(min=0)])
            shape = [-1 if other == dim else 1 for other in range(tensor.ndim)]
            shadow = torch.where(shadow == CONSTANT, here.reshape(shape), shadow)
    return shadow
