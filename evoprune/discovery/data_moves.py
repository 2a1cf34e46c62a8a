"""Rules for operations that move data (views, slices, shuffles, copies): the labels of feature maps move alike."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from evoprune.discovery.labels import CONSTANT, is_constant, labels_along, varying_dims
from evoprune.discovery.parameter_sources import labels_of_sources
from evoprune.discovery.tracing import Call, Tracer
from evoprune.space.tensors import size_of

Shadow = Tensor | list[Tensor] | None
"""Labels of the first output, or of each output; None if no element belongs to a feature map."""


def unknown(tracer: Tracer, call: Call) -> Shadow:
    """An operation without a rule: its inputs stay whole."""
    tracer.freeze_all(call, f"it is read by {call.name}")
    return None


def move(tracer: Tracer, call: Call, args: tuple, kwargs: dict) -> Shadow:
    """An operation that only moves elements: it is applied to the shadow."""
    tensors = call.tensors
    if call.name in ("t", "transpose", "permute") and len(tensors) == 1:
        tracer.note_transposed(call.output, tensors[0])
    if all(is_constant(tracer.shadow(tensor)) for tensor in tensors):
        return None

    maps = _maps_in_a_row(tracer, call) if call.name in ("cat", "stack") else None

    def shadow_of(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        shadow = tracer.shadow(value)
        return labels_of_sources(tracer, value, maps) if maps is not None and is_constant(shadow) else shadow

    if call.name in VIEWS:  # the shadow has its own memory layout
        moved = tracer.shadow(tensors[0]).reshape(call.output.shape)
        maps = _heads(tracer, moved)
    else:
        moved = call.overload(*tree_map(shadow_of, args), **tree_map(shadow_of, kwargs))
    if call.name == "stack" and maps is not None:
        maps += maps >= call.inputs.get("dim", 0) % call.output.ndim
    shadows = [_line_up(tracer, shadow, maps) for shadow in ([moved] if isinstance(moved, Tensor) else moved)]
    if call.name in VIEWS:
        _add_sizes(tracer, tracer.labels.resolve(shadows[0]), maps)
    return shadows


def _heads(tracer: Tracer, shadow: Tensor) -> int | None:
    """The dimension of heads after a view that splits maps into heads and the places inside them; None without heads.

    The running module has to say how many heads there are, because a hard-coded number could not be changed.
    """
    dims = varying_dims(shadow)
    if len(dims) < 2:
        return None
    sizes = (size_of(tracer.modules.get(tracer.running_module), attribute) for attribute in HEADS)
    if any(heads is not None and heads > 1 and shadow.shape[dims[-2]] % heads == 0 for heads in sizes):
        return dims[-2]
    return None


def _add_sizes(tracer: Tracer, shadow: Tensor, heads: int | None) -> None:
    """Records attributes of the running module that hold the number of heads or maps of a view. shadow: resolved."""
    module = tracer.modules.get(tracer.running_module)
    for dim in varying_dims(shadow):
        labels = labels_along(shadow, dim)
        for attribute in HEADS if dim == heads else WIDTHS:
            count = size_of(module, attribute)
            if count and count > 1 and (len(labels) == count or (dim == heads and len(labels) % count == 0)):
                tracer.outside.add_size(tracer.running_module, attribute, labels[:count], needed=dim == heads)


VIEWS = ("view", "_unsafe_view", "_reshape_alias")

HEADS = ("num_heads", "heads", "n_heads", "nheads", "nhead", "n_head", "num_attention_heads", "num_kv_heads")
"""Usual names of attributes that hold the number of heads of attention."""

WIDTHS = (
    "attn_dim",
    "inner_dim",
    "all_head_size",
    "hidden_dim",
    "hidden_size",
    "embed_dim",
    "d_model",
    "dim",
    "kv_dim",
)
"""Usual names of attributes that hold a number of maps."""


def _maps_in_a_row(tracer: Tracer, call: Call) -> int | None:
    """The dimension along which the maps of all concatenated tensors lie; None if they are concatenated along it."""
    dims = {dim for tensor in call.tensors for dim in varying_dims(tracer.shadow(tensor))}
    along = call.inputs.get("dim", 0) % call.output.ndim
    return dims.pop() if len(dims) == 1 and (call.name == "stack" or along not in dims) else None


def _line_up(tracer: Tracer, shadow: Tensor, maps: int | None = None) -> Tensor:
    """Lets maps lie along one dimension: if they lie along several, they are merged along all others.

    A view of C maps as (groups, C / groups) stays valid with fewer maps, because every group loses the same ones.

    Args:
        tracer: Follows the forward pass.
        shadow: The labels, of any shape.
        maps: The dimension that maps stay along; None: the longest one.
    """
    dims = varying_dims(tracer.labels.resolve(shadow))
    if len(dims) > 1:
        stays = maps if maps in dims else max(dims, key=lambda dim: (shadow.shape[dim], dim))
        for dim in dims:
            if dim != stays:
                tracer.labels.merge(shadow, shadow.narrow(dim, 0, 1), "a view mixes it with something constant")
    return shadow


def padding(tracer: Tracer, call: Call) -> Shadow:
    """Padding: constants around pixels belong to the map that they surround, constants among maps to none."""
    shadow, pads = tracer.shadow(call.inputs["self"]), call.inputs["pad"]
    maps = varying_dims(shadow)
    for place, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        dim = shadow.ndim - 1 - place
        size = shadow.shape[dim]
        index = torch.arange(-before, size + after)
        outside = (index < 0) | (index >= size)
        shadow = shadow.index_select(dim, index.clamp(0, size - 1))
        if dim in maps:
            shadow = shadow.index_fill(dim, outside.nonzero().flatten(), CONSTANT)
    return shadow


def selection(tracer: Tracer, call: Call) -> Shadow:
    """Selected positions: maps of which positions are selected stay whole, because positions would shift."""
    shadow = tracer.shadow(call.inputs["self"])
    indices = call.inputs.get("indices")
    if indices is not None:
        dims = {dim for dim, index in enumerate(indices) if index is not None}
    else:
        dims = {call.inputs["dim"] % max(shadow.ndim, 1)}
    if dims & set(varying_dims(shadow)):
        tracer.freeze(shadow, f"{call.name} picks single maps of it")
        return None
    if indices is None:
        return call.overload(shadow, *list(call.inputs.values())[1:])
    return call.overload(shadow, indices)


def shifting(tracer: Tracer, call: Call) -> Shadow:
    """Rolls and windows: maps along the shifted dimension stay whole, because positions would shift."""
    shadow = tracer.shadow(call.inputs["self"])
    dims = call.inputs.get("dims") or [call.inputs.get("dimension")]
    if dims == [None] or {dim % shadow.ndim for dim in dims} & set(varying_dims(shadow)):
        tracer.freeze(shadow, f"{call.name} moves its maps by a fixed number of places")
        return None
    return call.overload(shadow, *list(call.inputs.values())[1:])


def gated(tracer: Tracer, call: Call) -> Shadow:
    """One half of the maps gates the other: maps i of both halves are merged."""
    shadow, dim = tracer.shadow(call.inputs["self"]), call.inputs.get("dim", -1) % call.output.ndim
    if dim in varying_dims(shadow):
        _tie_pieces(tracer, shadow, dim, call.output.shape[dim], call.name)
    return tracer.labels.resolve(shadow).narrow(dim, 0, call.output.shape[dim])


def split(tracer: Tracer, call: Call) -> Shadow:
    """Pieces of maps keep equal widths: a network that halves its maps still halves them."""
    values = call.inputs["self"]
    shadow, dim = tracer.shadow(values), call.inputs.get("dim", 0) % values.ndim
    sizes = call.inputs.get("split_size", call.inputs.get("split_sizes"))
    sizes = sizes if isinstance(sizes, list) else [output.shape[dim] for output in call.outputs]
    if dim in varying_dims(shadow):
        _tie_pieces(tracer, shadow, dim, sizes[0] if len(set(sizes)) == 1 else 0, call.name)
        shadow = tracer.labels.resolve(shadow)
    return list(torch.split(shadow, sizes, dim))


def slicing(tracer: Tracer, call: Call) -> Shadow:
    """x[:, :n] and x[:, ::n]: maps are merged over equal pieces; if pieces are unequal, they stay whole."""
    values, dim = call.inputs["self"], call.inputs.get("dim", 0) % call.inputs["self"].ndim
    shadow, size, step = tracer.shadow(values), values.shape[dim], call.inputs.get("step", 1)
    taken = call.output.shape[dim]
    if taken != size and dim in varying_dims(shadow):
        start = call.inputs.get("start") or 0
        piece = step if step > 1 else taken if start % taken == 0 else 0
        _tie_pieces(tracer, shadow, dim, piece, call.name)
        shadow = tracer.labels.resolve(shadow)
    return call.overload(shadow, *list(call.inputs.values())[1:])


def _tie_pieces(tracer: Tracer, shadow: Tensor, dim: int, piece: int, operation: str) -> None:
    """Merges maps at the same place of each piece of `piece` maps; if it is 0 or does not fit, all maps stay whole."""
    size = shadow.shape[dim]
    if not piece or size % piece:
        tracer.freeze(shadow, f"{operation} takes an uneven part of its maps")
        return
    pieces = labels_along(shadow, dim).reshape(size // piece, piece)
    tracer.labels.merge(pieces, pieces[:1], f"{operation} takes a part of its maps")


def copy_into(tracer: Tracer, call: Call) -> Shadow:
    """Writes into another tensor or a part of it: elements around the written part belong to the same maps."""
    target = call.inputs["self"]
    source = tracer.shadow(call.inputs["src"]).expand(target.shape)
    base, maps = target._base, varying_dims(source)
    if base is None or not maps:
        return [source]
    if not base.is_contiguous() or base.ndim != target.ndim:
        tracer.freeze_all(call, "it is written into a part of another tensor")
        return [tracer.shadow(target)]
    labels = tracer.shadow(base).clone(memory_format=torch.contiguous_format)
    offset = target.storage_offset() - base.storage_offset()
    labels.as_strided(target.shape, target.stride(), offset).copy_(source)
    others = [dim for dim in range(base.ndim) if dim != maps[0]]
    written = labels.amax(others, keepdim=True)  # one label per map, CONSTANT if none was written
    tracer.labels.merge(torch.where(labels == CONSTANT, written, labels), written, "")
    tracer.set_shadow(base, tracer.labels.resolve(written).expand(base.shape))
    return [tracer.labels.resolve(source)]


def pixel_shuffle(tracer: Tracer, call: Call) -> Shadow:
    """r * r maps become one map with r times r as many pixels, and are merged."""
    values = call.inputs["self"]
    blocks = tracer.along(values, -3).reshape(-1, call.inputs["upscale_factor"] ** 2)
    tracer.labels.merge(blocks, blocks[:, :1], "pixel_shuffle mixes it with something constant")
    return tracer.labels.resolve(blocks[:, 0]).reshape(-1, 1, 1).expand(call.output.shape)


def channel_shuffle(tracer: Tracer, call: Call) -> Shadow:
    """A view as (groups, maps per group), transposed: every group loses the same maps."""
    maps = tracer.along(call.inputs["self"], 1).reshape(call.inputs["groups"], -1)
    tracer.labels.merge(maps, maps[:1], "channel_shuffle mixes it with something constant")
    maps = tracer.labels.resolve(maps).T.reshape(1, -1, *[1] * (call.output.ndim - 2))
    return maps.expand(call.output.shape)


def unfolding(tracer: Tracer, call: Call) -> Shadow:
    """Each map becomes as many rows as a window has pixels."""
    window = int(np.prod(call.inputs["kernel_size"]))
    rows = tracer.along(call.inputs["self"], 1).repeat_interleave(window)
    return rows.reshape(1, -1, 1).expand(call.output.shape)


def fresh(tracer: Tracer, call: Call) -> Shadow:
    """A new tensor with the type or shape of another."""
    return None


def duplicate(tracer: Tracer, call: Call) -> Shadow:
    """A copy in another type, device or layout."""
    return tracer.shadow(call.inputs["self"]).clone()


def restride(tracer: Tracer, call: Call) -> Shadow:
    """Another memory layout of the same elements; any other view has no rule."""
    shadow = tracer.shadow(call.inputs["self"])
    if call.output.shape != shadow.shape or call.name != "as_strided_":
        return unknown(tracer, call)
    return shadow
