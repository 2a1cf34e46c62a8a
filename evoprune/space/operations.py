"""What each operation does to the labels of feature maps: one short function a kind, and a table of names."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from evoprune.space.labels import CONSTANT, is_constant, line, varying_dims
from evoprune.space.tracing import Call, Tracer

Shadow = Tensor | list[Tensor] | None
"""Labels of an operation's first output, or of all of them; None: nothing in them belongs to a feature map."""


def follow(tracer: Tracer, call: Call, args: tuple, kwargs: dict) -> None:
    """Gives the outputs of a call their shadows, and merges or freezes what the call binds together."""
    name = call.name.rstrip("_") if call.name != "_" else call.name
    if name in DATA_MOVES:
        shadows: Shadow = move(tracer, call, args, kwargs)
    elif name in OPERATIONS:
        shadows = OPERATIONS[name](tracer, call)
    elif torch.Tag.pointwise in call.overload.tags or name in POINTWISE:
        shadows = elementwise(tracer, call)
    else:
        shadows = unknown(tracer, call)
    if shadows is None:
        return
    if isinstance(shadows, Tensor):
        shadows = [shadows for output in call.outputs if output.shape == call.output.shape]
    for output, shadow in zip(call.outputs, shadows, strict=False):
        if shadow.shape == output.shape:
            tracer.set_shadow(output, shadow)


def unknown(tracer: Tracer, call: Call) -> Shadow:
    """An operation that this module does not know: what it reads stays whole."""
    tracer.freeze_all(call, f"it is read by {call.name}")
    return None


def convolution(tracer: Tracer, call: Call) -> Shadow:
    """Reads maps along dimension 1, writes fresh ones.

    A grouped convolution's groups go whole, or keep equal widths, whichever leaves more genes to choose.
    """
    images, weight, groups = call.inputs["input"], call.inputs["weight"], call.inputs["groups"]
    transposed = call.inputs["transposed"]
    columns = tracer.along(images, 1)
    name = tracer.name(weight)
    if name is None:
        tracer.freeze(columns, "it is read by a convolution whose weights are computed")
        tracer.keep_whole("its weights are computed")
        return None
    outputs = call.output.shape[1]
    owned = isinstance(tracer.owner(name), nn.modules.conv._ConvNd)
    widths = columns.numel() // groups, outputs // groups
    whole_groups = owned and groups > 1 and groups >= sum(width for width in widths if width > 1)
    rows = _grouped_labels(tracer, name, weight, columns, groups, outputs, transposed, whole_groups)
    tracer.attach(call.inputs.get("bias"), rows)
    pixels = images if transposed else call.output
    layout = {
        "groups": groups,
        "out_dim": 1 if transposed else 0,
        "in_dim": 0 if transposed else 1,
        "channels_per_group": weight.shape[0] // groups if whole_groups else 0,
    }
    kind = "transposed convolution" if transposed else "convolution"
    tracer.count(name, kind, pixels.numel() // pixels.shape[1], weight.shape, layout)
    return rows.reshape(1, -1, *[1] * (call.output.ndim - 2)).expand(call.output.shape)


def _grouped_labels(
    tracer: Tracer,
    name: str,
    weight: Tensor,
    columns: Tensor,
    groups: int,
    outputs: int,
    transposed: bool,
    whole_groups: bool,
) -> Tensor:
    """Binds a convolution's weight to what it reads and writes. Returns the labels of its output maps."""
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    if groups == 1:
        tracer.read(name, in_dim, columns)
        return tracer.write(name, out_dim, outputs)
    blocks = columns.reshape(groups, -1)  # (groups, inputs a group)
    constant = "it shares a convolution's group with something constant"
    if whole_groups:
        tracer.labels.merge(blocks, blocks[:, :1], constant)
        rows = tracer.labels.resolve(blocks[:, :1]).expand(groups, outputs // groups).reshape(-1)
        tracer.read(name, 0, columns if transposed else rows)
        return rows
    tracer.labels.merge(blocks, blocks[:1], constant)
    if transposed:
        tracer.read(name, 0, columns)
        return tracer.write(name, 1, outputs // groups).repeat(groups)
    tracer.read(name, 1, blocks[0])
    if (name, 0) not in tracer.labels.axes:
        tracer.read(name, 0, tracer.labels.new(outputs // groups).repeat(groups))
    return tracer.labels.resolve(tracer.labels.axes[name, 0])


def matrix_product(tracer: Tracer, call: Call) -> Shadow:
    """A linear layer, where the second factor is a parameter: reads columns, writes rows."""
    left, right = (call.inputs.get(a, call.inputs.get(b)) for a, b in (("mat1", "self"), ("mat2", "mat2")))
    parameter = tracer.matrix(right)
    if parameter is None:
        return unknown(tracer, call)
    name, out_dim, in_dim = parameter
    tracer.read(name, in_dim, tracer.along(left, 1))
    rows = tracer.write(name, out_dim, right.shape[1])
    if call.name == "addmm":
        tracer.attach(call.inputs["self"], rows)
    shape = right.shape if out_dim == 1 else right.shape[::-1]
    tracer.count(name, "linear", left.shape[0], shape, {"out_dim": out_dim, "in_dim": in_dim})
    return rows.expand(call.output.shape)


def batch_norm(tracer: Tracer, call: Call) -> Shadow:
    """Every map has its own statistics, scale and shift."""
    maps = tracer.along(call.inputs["input"], 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        tracer.attach(call.inputs.get(name), maps)
    return [tracer.shadow(call.inputs["input"])]


def layer_norm(tracer: Tracer, call: Call) -> Shadow:
    """Statistics over the maps that lie along the last dimension; they may go where a module owns the norm."""
    values, weight = call.inputs["input"], call.inputs["weight"]
    shadow = tracer.shadow(values)
    count = len(call.inputs["normalized_shape"])
    dims = varying_dims(shadow)
    if all(dim < shadow.ndim - count for dim in dims):
        return [shadow]
    name = tracer.name(weight)
    if count != 1 or not isinstance(tracer.owner(name), nn.LayerNorm) or name is None:
        tracer.freeze(shadow, "a layer norm without a module of its own takes all maps together")
        return [shadow]
    tracer.norm(name)
    tracer.attach(weight, tracer.along(values, -1))
    tracer.attach(call.inputs["bias"], tracer.along(values, -1))
    return [shadow]


def group_norm(tracer: Tracer, call: Call) -> Shadow:
    """Statistics over groups of maps: groups go whole, or keep equal widths, whichever leaves more to choose."""
    values, weight, groups = call.inputs["input"], call.inputs["weight"], call.inputs["group"]
    shadow, name = tracer.shadow(values), tracer.name(weight)
    if not isinstance(tracer.owner(name), nn.GroupNorm) or name is None:
        tracer.freeze(shadow, "a group norm without a module of its own takes maps together")
        return [shadow]
    blocks = tracer.along(values, 1).reshape(groups, -1)
    whole_groups = groups > 1 and groups >= blocks.shape[1]
    constant = "it shares a normalisation's group with something constant"
    tracer.labels.merge(blocks, blocks[:, :1] if whole_groups else blocks[:1], constant)
    maps = tracer.along(values, 1)
    tracer.norm(name, blocks.shape[1] if whole_groups else 0)
    tracer.attach(weight, maps)
    tracer.attach(call.inputs["bias"], maps)
    return [tracer.shadow(values)]


def elementwise(tracer: Tracer, call: Call) -> Shadow:
    """Elements at one place go together; a single map that gates many stays, and a constant keeps what it meets."""
    shape = call.output.shape
    operands = [(tensor, tracer.shadow(tensor)) for tensor in call.tensors if tensor.ndim]
    named = [(tensor, tracer.name(tensor)) for tensor, _ in operands]
    parameters = {id(tensor) for tensor, name in named if name is not None}
    dims = {
        dim + len(shape) - shadow.ndim
        for tensor, shadow in operands
        if id(tensor) not in parameters
        for dim in varying_dims(shadow)
    }
    if len(dims) > 1:
        tracer.freeze_all(call, f"{call.name} meets maps along two dimensions")
        return None
    if not dims:
        return _merge_elements(tracer, [shadow for _, shadow in operands], shape)
    dim = dims.pop()
    spanning, bound = [], []
    for tensor, shadow in operands:
        own = dim - len(shape) + tensor.ndim
        if own < 0 or tensor.shape[own] == 1:
            tracer.freeze(shadow, f"it is one map that {call.name} spreads over many")
        elif id(tensor) in parameters:
            bound.append((tracer.name(tensor), own))
        else:
            spanning.append(shadow)
    result = _merge_elements(tracer, spanning, shape, f"it meets something constant in {call.name}")
    along = line(result, dim)
    for name, own in bound:
        tracer.read(name or "", own, along)
    return tracer.labels.resolve(result)


def _merge_elements(tracer: Tracer, shadows: list[Tensor], shape: torch.Size, constant: str = "") -> Tensor:
    """Merges labels element by element; with a `constant` reason, elements without a label freeze the others."""
    result = torch.tensor(CONSTANT).expand(shape)
    labelled = [shadow.expand(shape) for shadow in shadows if not is_constant(shadow)]
    if labelled:
        result = labelled[0]
        for other in labelled[1:]:
            tracer.labels.merge(result, other, constant or "it meets something constant")
        if constant and len(labelled) < len(shadows):
            tracer.freeze(result, constant)
    return tracer.labels.resolve(result)


def pooling(tracer: Tracer, call: Call) -> Shadow:
    """Works on pixels alone (pooling, resizing, padding by reflection): maps stay where they are."""
    values = call.inputs.get("self", call.inputs.get("input"))
    maps = tracer.along(values, 1)
    return maps.reshape(1, -1, *[1] * (call.output.ndim - 2)).expand(call.output.shape)


def reduction(tracer: Tracer, call: Call) -> Shadow:
    """A sum, mean or maximum: over pixels the maps stay, over maps they can not go."""
    values = call.inputs["self"]
    shadow = tracer.shadow(values)
    dims = call.inputs.get("dim")
    dims = (
        list(range(shadow.ndim)) if dims is None or dims == [] else dims if isinstance(dims, list) else [dims]
    )
    dims = sorted({dim % max(shadow.ndim, 1) for dim in dims}, reverse=True)
    if set(dims) & set(varying_dims(shadow)):
        tracer.freeze(shadow, f"{call.name} takes all its maps together")
        return None
    kept_dims = call.output.ndim == shadow.ndim
    for dim in dims:
        shadow = shadow.narrow(dim, 0, 1) if kept_dims else shadow.select(dim, 0)
    return shadow


def along_dim(tracer: Tracer, call: Call) -> Shadow:
    """Softmax, sums so far, sorting: pixels may be mixed, maps may not."""
    shadow = tracer.shadow(call.inputs["self"])
    if call.inputs["dim"] % max(shadow.ndim, 1) in varying_dims(shadow):
        tracer.freeze(shadow, f"{call.name} takes all its maps together")
    return shadow


def padding(tracer: Tracer, call: Call) -> Shadow:
    """Constants around pixels belong to the map that they surround; constants among maps are no map."""
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
    """Chosen positions: over pixels the maps stay, among maps they can not go, since positions would shift."""
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


def split(tracer: Tracer, call: Call) -> Shadow:
    """Pieces of maps keep equal widths, so that a network which halves its maps goes on halving them."""
    values = call.inputs["self"]
    shadow, dim = tracer.shadow(values), call.inputs.get("dim", 0) % values.ndim
    sizes = call.inputs.get("split_size", call.inputs.get("split_sizes"))
    sizes = sizes if isinstance(sizes, list) else [output.shape[dim] for output in call.outputs]
    if dim in varying_dims(shadow):
        _tie_pieces(tracer, shadow, dim, sizes[0] if len(set(sizes)) == 1 else 0, call.name)
        shadow = tracer.labels.resolve(shadow)
    return list(torch.split(shadow, sizes, dim))


def slicing(tracer: Tracer, call: Call) -> Shadow:
    """x[:, :n] and x[:, ::n]: among maps, as equal pieces of all maps, or not at all."""
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
    """Maps at the same place of every `piece` go together; 0, or pieces that do not fit: all stay."""
    size = shadow.shape[dim]
    if not piece or size % piece:
        tracer.freeze(shadow, f"{operation} takes an uneven part of its maps")
        return
    pieces = line(shadow, dim).reshape(size // piece, piece)
    tracer.labels.merge(pieces, pieces[:1], f"{operation} takes a part of its maps")


def copy_into(tracer: Tracer, call: Call) -> Shadow:
    """Writes into another tensor or a part of it: what lies around what was written belongs to the same maps."""
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
    written = labels.amax(others, keepdim=True)  # one label a map, CONSTANT where none was written
    tracer.labels.merge(torch.where(labels == CONSTANT, written, labels), written, "")
    tracer.set_shadow(base, tracer.labels.resolve(written).expand(base.shape))
    return [tracer.labels.resolve(source)]


def move(tracer: Tracer, call: Call, args: tuple, kwargs: dict) -> Shadow:
    """Data that only moves: the shadow moves by the same operation."""
    tensors = call.tensors
    if call.name in ("t", "transpose", "permute") and len(tensors) == 1:
        tracer.note_transposed(call.output, tensors[0])
    if all(is_constant(tracer.shadow(tensor)) for tensor in tensors):
        return None

    def shadow_of(value: Any) -> Any:
        return tracer.shadow(value) if isinstance(value, Tensor) else value

    if call.name in ("view", "_unsafe_view", "_reshape_alias"):  # a shadow's memory layout is its own
        moved = tracer.shadow(tensors[0]).reshape(call.output.shape)
    else:
        moved = call.overload(*tree_map(shadow_of, args), **tree_map(shadow_of, kwargs))
    return [_line_up(tracer, shadow) for shadow in ([moved] if isinstance(moved, Tensor) else moved)]


def pixel_shuffle(tracer: Tracer, call: Call) -> Shadow:
    """Every r * r maps become one map of r times r as many pixels, and go together."""
    values = call.inputs["self"]
    blocks = tracer.along(values, -3).reshape(-1, call.inputs["upscale_factor"] ** 2)
    tracer.labels.merge(blocks, blocks[:, :1], "pixel_shuffle mixes it with something constant")
    return tracer.labels.resolve(blocks[:, 0]).reshape(-1, 1, 1).expand(call.output.shape)


def unfolding(tracer: Tracer, call: Call) -> Shadow:
    """Every map becomes as many rows as a window has pixels."""
    window = int(np.prod(call.inputs["kernel_size"]))
    rows = tracer.along(call.inputs["self"], 1).repeat_interleave(window)
    return rows.reshape(1, -1, 1).expand(call.output.shape)


def channel_shuffle(tracer: Tracer, call: Call) -> Shadow:
    """A view as (groups, maps a group), transposed: every group loses the same maps."""
    maps = tracer.along(call.inputs["self"], 1).reshape(call.inputs["groups"], -1)
    tracer.labels.merge(maps, maps[:1], "channel_shuffle mixes it with something constant")
    maps = tracer.labels.resolve(maps).T.reshape(1, -1, *[1] * (call.output.ndim - 2))
    return maps.expand(call.output.shape)


def fresh(tracer: Tracer, call: Call) -> Shadow:
    """A tensor that takes nothing but its type or shape from another."""
    return None


def duplicate(tracer: Tracer, call: Call) -> Shadow:
    """A copy in another type, device or layout."""
    return tracer.shadow(call.inputs["self"]).clone()


def restride(tracer: Tracer, call: Call) -> Shadow:
    """Another memory layout of the same elements, or a view that nobody can follow."""
    shadow = tracer.shadow(call.inputs["self"])
    if call.output.shape != shadow.shape or call.name != "as_strided_":
        return unknown(tracer, call)
    return shadow


def _line_up(tracer: Tracer, shadow: Tensor) -> Tensor:
    """Maps lie along one dimension; those that a view has spread over two go together along the shorter one.

    That is what keeps a view of C maps as (groups, C / groups) a view of fewer maps: every group loses the same.
    """
    dims = varying_dims(tracer.labels.resolve(shadow))
    if len(dims) > 1:
        longest = max(dims, key=lambda dim: (shadow.shape[dim], dim))
        for dim in dims:
            if dim != longest:
                tracer.labels.merge(
                    shadow, shadow.narrow(dim, 0, 1), "a view mixes it with something constant"
                )
    return shadow


POINTWISE = frozenset("hardswish hardsigmoid hardtanh silu mish relu6 native_dropout bernoulli _prelu_kernel".split())
"""Operations on single elements that torch does not tag as such (in place forms included)."""

DATA_MOVES = frozenset(
    "view _unsafe_view reshape _reshape_alias alias detach permute transpose t expand squeeze unsqueeze cat stack "
    "repeat tile flip roll movedim pixel_unshuffle unfold unbind diagonal squeeze_copy lift_fresh".split()
)


def _table(
    *rows: tuple[Callable[[Tracer, Call], Shadow], str],
) -> dict[str, Callable[[Tracer, Call], Shadow]]:
    return {name: function for function, names in rows for name in names.split()}


OPERATIONS = _table(
    (convolution, "convolution"),
    (matrix_product, "mm addmm"),
    (
        batch_norm,
        "native_batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit cudnn_batch_norm "
        "miopen_batch_norm batch_norm _batch_norm_no_update _batch_norm_with_update",
    ),
    (layer_norm, "native_layer_norm"),
    (group_norm, "native_group_norm"),
    (
        pooling,
        "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d "
        "avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d "
        "adaptive_max_pool3d reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
        "replication_pad3d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d "
        "upsample_bicubic2d upsample_linear1d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_nearest_exact2d",
    ),
    (reduction, "mean sum amax amin max min var std var_mean prod any all argmax argmin logsumexp norm "
        "linalg_vector_norm"),
    (along_dim, "_softmax _log_softmax softmax log_softmax cumsum sort"),
    (padding, "constant_pad_nd"),
    (selection, "select index index_select"),
    (split, "split split_with_sizes"),
    (slicing, "slice"),
    (restride, "as_strided"),
    (pixel_shuffle, "pixel_shuffle"),
    (channel_shuffle, "channel_shuffle native_channel_shuffle"),
    (unfolding, "im2col"),
    (fresh, "new_empty new_zeros new_ones new_full empty_like zeros_like ones_like full_like"),
    (copy_into, "copy"),
    (duplicate, "clone _to_copy contiguous"),
)  # fmt: skip
