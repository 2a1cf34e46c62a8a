"""The rule of each operation for the labels of feature maps: one short function per kind, and a table of names."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from evoprune.discovery.attention_rules import batched_product
from evoprune.discovery.data_moves import (
    WIDTHS,
    Shadow,
    channel_shuffle,
    copy_into,
    duplicate,
    fresh,
    gated,
    move,
    padding,
    pixel_shuffle,
    restride,
    selection,
    shifting,
    slicing,
    split,
    unfolding,
    unknown,
)
from evoprune.discovery.filters import bind_filter, filter_of, follow_filters
from evoprune.discovery.labels import CONSTANT, is_constant, labels_along, varying_dims
from evoprune.discovery.parameter_sources import bind_sources, follow_sources, sources_of
from evoprune.discovery.recurrent import packing
from evoprune.discovery.reduction_rules import along_dim, group_norm, layer_norm, reduction
from evoprune.discovery.tracing import Call, Tracer
from evoprune.space.reductions import REDUCTIONS, SOFTMAX


def follow(tracer: Tracer, call: Call, args: tuple, kwargs: dict) -> None:
    """Applies the rule of a call: sets the shadows of its outputs, and merges or freezes labels."""
    if not follow_filters(tracer, call, args, kwargs):
        _follow_labels(tracer, call, args, kwargs)
    follow_sources(tracer, call, args, kwargs)


def _follow_labels(tracer: Tracer, call: Call, args: tuple, kwargs: dict) -> None:
    try:
        shadows = _shadows(tracer, call, args, kwargs)
    except Exception:  # a form of an operation that its rule does not cover
        shadows = unknown(tracer, call)
    if shadows is None:
        return
    if isinstance(shadows, Tensor):
        shadows = [shadows for output in call.outputs if output.shape == call.output.shape]
    for output, shadow in zip(call.outputs, shadows, strict=False):
        if shadow.shape == output.shape:
            tracer.set_shadow(output, shadow)


def _shadows(tracer: Tracer, call: Call, args: tuple, kwargs: dict) -> Shadow:
    name = call.name.rstrip("_")
    if name in DATA_MOVES:
        return move(tracer, call, args, kwargs)
    if name in OPERATIONS:
        return OPERATIONS[name](tracer, call)
    if torch.Tag.pointwise in call.overload.tags or name in POINTWISE:
        return elementwise(tracer, call)
    return unknown(tracer, call)


def convolution(tracer: Tracer, call: Call) -> Shadow:
    """Reads maps along dimension 1 and makes new ones.

    The groups of a grouped convolution are removed whole, or keep equal widths, whichever gives more genes.
    """
    images, weight, groups = call.inputs["input"], call.inputs["weight"], call.inputs["groups"]
    transposed = call.inputs["transposed"]
    columns = tracer.along(images, 1)
    name = tracer.name(weight)
    outputs = call.output.shape[1]
    module = tracer.owner(name) if name is not None else tracer.modules[tracer.running_module]
    widths = columns.numel() // groups, outputs // groups
    whole_groups = groups > 1 and (
        groups >= sum(width for width in widths if width > 1)
        if isinstance(module, nn.modules.conv._ConvNd)
        else groups == columns.numel()  # a number of groups of its own may be the number of maps
    )
    rows = _grouped_labels(tracer, name or COMPUTED, weight, columns, groups, outputs, transposed, whole_groups)
    if whole_groups and not isinstance(module, nn.modules.conv._ConvNd):
        for attribute in ("groups", "channels", *WIDTHS):  # the number of groups may be one of them
            tracer.outside.add_size(tracer.running_module, attribute, columns, needed=False)
    layout = {
        "groups": groups,
        "out_dim": 1 if transposed else 0,
        "in_dim": 0 if transposed else 1,
        "channels_per_group": weight.shape[0] // groups if whole_groups else 0,
    }
    kind, layer = "transposed convolution" if transposed else "convolution", ""
    if name is None:
        axes = tracer.labels.axes
        given = {dim: axes.pop((COMPUTED, dim)) for dim in (0, 1) if (COMPUTED, dim) in axes}
        made_of = bind_filter(tracer, weight, given)
        if made_of is None and not (whole_groups and _is_one_filter(tracer, weight)):
            _freeze_convolution(tracer, columns)
            return None
        if made_of is not None:
            name, layer, kind = made_of.weight, made_of.layer, f"{made_of.kind} {kind}"
            if made_of.kind == "normalised":
                tracer.note_normalised(1, columns, rows)
    tracer.attach(call.inputs.get("bias"), rows)
    pixels = images if transposed else call.output
    if name is not None:
        tracer.add_uses(name, kind, pixels.numel() // pixels.shape[1], weight.shape, layout, layer)
    return rows.reshape(1, -1, *[1] * (call.output.ndim - 2)).expand(call.output.shape)


COMPUTED = "computed filter"
"""The name under which a filter has labels until they are those of its parameters."""


def _is_one_filter(tracer: Tracer, weight: Tensor) -> bool:
    """Whether a computed depthwise filter is the same for all maps, and so lasts for any number of them."""
    return weight not in tracer.data and not {0, 1} & filter_of(tracer, weight).labels.keys()


def _freeze_convolution(tracer: Tracer, columns: Tensor) -> None:
    """A convolution whose weights are of an unknown origin: its inputs stay whole."""
    kind = "complex" if tracer.has_complex_weights() else "computed"
    tracer.freeze(columns, f"it is read by a convolution whose weights are {kind}")
    tracer.freeze_module(f"its weights are {kind}")


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
    """Binds a convolution's weight to its input and output maps. Returns the labels of its output maps."""
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    if groups == 1:
        tracer.bind(name, in_dim, columns)
        return tracer.output_labels(name, out_dim, outputs)
    blocks = columns.reshape(groups, -1)  # (groups, inputs a group)
    constant = "it shares a convolution's group with something constant"
    if whole_groups:
        tracer.labels.merge(blocks, blocks[:, :1], constant)
        rows = tracer.labels.resolve(blocks[:, :1]).expand(groups, outputs // groups).reshape(-1)
        tracer.bind(name, 0, columns if transposed else rows)
        return rows
    tracer.labels.merge(blocks, blocks[:1], constant)
    if transposed:
        tracer.bind(name, 0, columns)
        return tracer.output_labels(name, 1, outputs // groups).repeat(groups)
    tracer.bind(name, 1, blocks[0])
    if (name, 0) not in tracer.labels.axes:
        tracer.bind(name, 0, tracer.labels.new(outputs // groups).repeat(groups))
    return tracer.labels.resolve(tracer.labels.axes[name, 0])


def matrix_product(tracer: Tracer, call: Call) -> Shadow:
    """A linear layer, if the second factor is a parameter: reads columns and makes rows."""
    left: Tensor = call.inputs["mat1" if call.name == "addmm" else "self"]
    right: Tensor = call.inputs["mat2"]
    parameter = tracer.matrix(right)
    if parameter is None:
        return _computed_matrix_product(tracer, call, left, right)
    name, out_dim, in_dim = parameter
    tracer.bind(name, in_dim, tracer.along(left, 1))
    rows = tracer.output_labels(name, out_dim, right.shape[1])
    if call.name == "addmm":
        tracer.attach(call.inputs["self"], rows)
    shape = right.shape if out_dim == 1 else right.shape[::-1]
    tracer.add_uses(name, "linear", left.shape[0], shape, {"out_dim": out_dim, "in_dim": in_dim})
    return rows.expand(call.output.shape)


def _computed_matrix_product(tracer: Tracer, call: Call, left: Tensor, right: Tensor) -> Shadow:
    """A linear layer whose weights are computed from parameters."""
    columns, rows = tracer.along(left, 1), tracer.labels.new(right.shape[1])
    made_of = bind_filter(tracer, right, {0: columns, 1: rows}) if filter_of(tracer, right).parts else None
    if made_of is None:
        return unknown(tracer, call)
    if made_of.kind == "normalised":
        tracer.note_normalised(-1, columns, rows)
    if call.name == "addmm":
        tracer.attach(call.inputs["self"], rows)
    shape = right.shape[::-1] if made_of.flipped else right.shape
    layout = {"out_dim": 0, "in_dim": 1} if made_of.flipped else {"out_dim": 1, "in_dim": 0}
    tracer.add_uses(made_of.weight, f"{made_of.kind} linear", left.shape[0], shape, layout, made_of.layer)
    return tracer.labels.resolve(rows).expand(call.output.shape)


def batch_norm(tracer: Tracer, call: Call) -> Shadow:
    """Each map has its own statistics, scale and shift."""
    maps = tracer.along(call.inputs["input"], 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        tracer.attach(call.inputs.get(name), maps)
    return [tracer.shadow(call.inputs["input"])]


def elementwise(tracer: Tracer, call: Call) -> Shadow:
    """Merges elements at equal places; a single map that is spread over many, or that meets a constant, stays whole."""
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
    spanning, bound, made_of_parameters = [], [], []
    for tensor, shadow in operands:
        own = dim - len(shape) + tensor.ndim
        if own < 0 or tensor.shape[own] == 1:
            tracer.freeze(shadow, f"it is one map that {call.name} spreads over many")
        elif id(tensor) in parameters:
            bound.append((tracer.name(tensor), own))
        elif is_constant(shadow) and tensor.stride(own) == 0:
            continue  # one element for all maps
        elif is_constant(shadow) and sources_of(tracer, tensor):
            made_of_parameters.append((tensor, own))
        else:
            spanning.append(shadow)
    meets = f"it meets something constant in {call.name}"
    result = _merge_elements(tracer, spanning, shape, meets)
    along = labels_along(result, dim)
    for name, own in bound:
        tracer.bind(name or "", own, along)
    for tensor, own in made_of_parameters:
        if not bind_sources(tracer, tensor, own, along):
            tracer.freeze(result, meets)
    return tracer.labels.resolve(result)


def _merge_elements(tracer: Tracer, shadows: list[Tensor], shape: torch.Size, constant: str = "") -> Tensor:
    """Merges labels element by element. constant: the reason if elements without a label freeze the others."""
    result = torch.tensor(CONSTANT).expand(shape)
    labelled = [shadow.expand(shape) for shadow in shadows if not is_constant(shadow)]
    if labelled:
        result = labelled[0]
        for other in labelled[1:]:
            tracer.labels.merge(result, other, constant or "it meets something constant")
        if constant and len(labelled) < len(shadows):
            tracer.freeze(result, constant)
    return tracer.labels.resolve(result)


def embedding(tracer: Tracer, call: Call) -> Shadow:
    """Rows of a table by their numbers: its columns are read as they are."""
    shadow = tracer.shadow(call.inputs["weight"])
    return None if is_constant(shadow) else shadow[call.inputs["indices"]]


def pooling(tracer: Tracer, call: Call) -> Shadow:
    """Operations on pixels alone (pooling, resizing, padding by reflection): maps keep their places."""
    maps = tracer.along(call.tensors[0], 1)
    return maps.reshape(1, -1, *[1] * (call.output.ndim - 2)).expand(call.output.shape)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


POINTWISE = _words("hardswish hardsigmoid hardtanh silu mish relu6 native_dropout bernoulli _prelu_kernel")
"""Elementwise operations that torch does not tag as such (in-place forms included)."""

DATA_MOVES = _words(
    "view _unsafe_view reshape _reshape_alias alias detach permute transpose t expand squeeze unsqueeze cat stack "
    "repeat tile flip movedim pixel_unshuffle unbind squeeze_copy lift_fresh"
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
    (reduction, " ".join(sorted(REDUCTIONS))),
    (along_dim, " ".join(sorted({"cumsum", "sort"} | SOFTMAX))),
    (padding, "constant_pad_nd"),
    (selection, "select index index_select"),
    (shifting, "roll unfold"),
    (gated, "glu"),
    (split, "split split_with_sizes unsafe_split unsafe_split_with_sizes"),
    (slicing, "slice"),
    (restride, "as_strided"),
    (pixel_shuffle, "pixel_shuffle"),
    (channel_shuffle, "channel_shuffle native_channel_shuffle"),
    (unfolding, "im2col"),
    (fresh, "new_empty new_zeros new_ones new_full empty_like zeros_like ones_like full_like"),
    (copy_into, "copy"),
    (duplicate, "clone _to_copy contiguous"),
    (batched_product, "bmm baddbmm"),
    (embedding, "embedding"),
    (packing, "_pack_padded_sequence"),
)  # fmt: skip
