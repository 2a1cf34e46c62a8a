"""Filters that a forward pass computes from parameters: scaled, masked, normalised, merged with others.

A computed filter has labels along its dimensions, as a parameter has; they are those of the parameters that it is made
of, which lose rows and columns together. If a rule takes the elements of a row or column together (weight
standardisation, weight norm), the filter is *normalised*: it depends on the maps that stay, so that the module which
holds the parameters and convolves is computed over those maps alone (`space.normalised_filters`).

References:
    Qiao et al. 2019, eq. 5 (weight standardisation); Salimans and Kingma 2016, eq. 2 (weight norm); Miyato et al. 2018,
    section 2.1 (spectral norm); Karras et al. 2018, section 4.1 (equalised learning rate).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from evoprune.discovery.labels import is_constant, labels_along, varying_dims
from evoprune.discovery.tracing import Call, Tracer
from evoprune.space.reductions import COUNTED


@dataclass(frozen=True, eq=False)
class Filter:
    """A tensor that is made of parameters and buffers alone.

    Attributes:
        labels: Dimension -> labels of the positions along it, int64 (size,). The positions along other dimensions never
            go.
        parts: Parameters and buffers that it is made of, by name.
        normalised: Whether elements of a row or column were taken together.
    """

    labels: Mapping[int, Tensor] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()
    normalised: bool = False


def filter_of(tracer: Tracer, tensor: Tensor) -> Filter:
    """The tensor as a filter; one without labels if it is no parameter and not made of any."""
    if tensor in tracer.filters:
        return tracer.filters[tensor]
    name = tracer.name(tensor)
    if name is not None and sum(size > 1 for size in tensor.shape) > 1:
        dims = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        found = Filter({dim: tracer.part_labels(name, dim, tensor.shape[dim]) for dim in dims}, frozenset({name}))
        tracer.filters[tensor] = found
        return found
    shadow = tracer.shadow(tensor)
    dims = varying_dims(shadow)
    parts = frozenset() if name is None else frozenset({name})
    return Filter({dims[0]: labels_along(shadow, dims[0])} if len(dims) == 1 else {}, parts)


def follow_filters(tracer: Tracer, call: Call, args: tuple, kwargs: dict) -> bool:
    """Sets the filters that a call makes of parameters.

    Returns:
        Whether the call needs no other rule.
    """
    if any(tensor in tracer.data for tensor in call.tensors):
        for output in call.outputs:
            tracer.data[output] = True
        return False
    holders = [tensor for tensor in call.tensors if tensor.ndim and _has_several_dims(tracer, tensor)]
    if not holders:
        return False
    name = call.name.rstrip("_")
    if name in _MOVES and len(holders) == 1:
        for place, output in enumerate(call.outputs):
            _set(tracer, output, _moved(tracer, call, holders[0], args, kwargs, place))
        return False
    rule = _elementwise if torch.Tag.pointwise in call.overload.tags else _RULES.get(name)
    if rule is None or (name in _PRODUCTS and _is_linear_layer(tracer, call)):
        return False
    found = rule(tracer, call)
    if found is None:
        return False
    if name in COUNTED:
        tracer.count_call(call.name)
    _set(tracer, call.output, found)
    return True


def _has_several_dims(tracer: Tracer, tensor: Tensor) -> bool:
    return tensor in tracer.filters or (tracer.name(tensor) is not None and sum(size > 1 for size in tensor.shape) > 1)


def _is_linear_layer(tracer: Tracer, call: Call) -> bool:
    """Whether a product of parameters is a linear layer that reads one (tokens, positions)."""
    parameter = tracer.matrix(call.inputs["mat2"])
    return parameter is not None and isinstance(tracer.owner(parameter[0]), nn.Linear)


def _set(tracer: Tracer, output: Tensor, found: Filter) -> None:
    labels = {dim: labels for dim, labels in found.labels.items() if dim < output.ndim and output.shape[dim] > 1}
    tracer.filters[output] = replace(found, labels=labels)


def _moved(tracer: Tracer, call: Call, holder: Tensor, args: tuple, kwargs: dict, place: int) -> Filter:
    """The filter whose elements a call has moved to its output at `place`."""
    found = filter_of(tracer, holder)
    labels: dict[int, Tensor] = {}

    def move(spread: Tensor) -> Tensor:
        if call.name in ("view", "_unsafe_view", "_reshape_alias"):  # labels have their own memory layout
            return spread.reshape(call.output.shape)
        given = tree_map(lambda value: spread if value is holder else value, (args, kwargs))
        moved: Any = call.overload(*given[0], **given[1])
        return moved if isinstance(moved, Tensor) else moved[place]

    for dim, along in found.labels.items():
        moved = move(_spread(along, dim, holder.shape))
        dims = varying_dims(moved)
        for other in dims[1:]:  # all taps of a map go together
            tracer.labels.merge(moved, moved.narrow(other, 0, 1), "")
            moved = tracer.labels.resolve(moved)
        if dims:  # maps rather than the taps of their kernels, which come later
            labels.setdefault(dims[0], labels_along(moved, dims[0]))
    return replace(found, labels=labels)


def _spread(along: Tensor, dim: int, shape: torch.Size) -> Tensor:
    return along.reshape([-1 if other == dim else 1 for other in range(len(shape))]).expand(shape)


def _elementwise(tracer: Tracer, call: Call) -> Filter:
    """Elements at equal places go together; a position that meets something constant never goes."""
    return _aligned(tracer, call, [tensor for tensor in call.tensors if tensor.ndim], call.output.shape)


def _aligned(tracer: Tracer, call: Call, tensors: list[Tensor], shape: torch.Size) -> Filter:
    found = [filter_of(tracer, tensor) for tensor in tensors]
    labels: dict[int, Tensor] = {}
    for dim, size in enumerate(shape):
        here = [
            one.labels.get(dim - len(shape) + tensor.ndim)
            for one, tensor in zip(found, tensors, strict=True)
            if size > 1 and tensor.shape[dim - len(shape) :][:1] == (size,) and dim - len(shape) + tensor.ndim >= 0
        ]
        known = [along for along in here if along is not None]
        for other in known[1:]:
            tracer.labels.merge(known[0], other, "")
        if known and len(known) < len(here):
            tracer.freeze(known[0], f"it meets something constant in {call.name}")
        if known:
            labels[dim] = known[0]
    shadows = [shadow for tensor in tensors if not is_constant(shadow := tracer.shadow(tensor))]
    if shadows and len({tuple(varying_dims(shadow.expand(shape))) for shadow in shadows}) == 1:
        tracer.set_shadow(call.output, tracer.labels.resolve(shadows[0].expand(shape)))
    return Filter(labels, frozenset().union(*(one.parts for one in found)), any(one.normalised for one in found))


def _reduction(tracer: Tracer, call: Call) -> Filter:
    """Elements along some dimensions are taken together: zeros among them count, or are divided by."""
    values = call.inputs["self"]
    found, dims = filter_of(tracer, values), call.inputs.get("dim")
    given = [] if dims is None else dims if isinstance(dims, list | tuple) else [dims]
    reduced = {dim % values.ndim for dim in given} or set(range(values.ndim))
    kept = [dim for dim in range(values.ndim) if dim not in reduced]
    places = {dim: dim if call.output.ndim == values.ndim else kept.index(dim) for dim in kept}
    labels = {places[dim]: along for dim, along in found.labels.items() if dim in places}
    whole = not kept and call.name in _ADDITIVE  # of a sum over everything, zeros are no part
    return replace(found, labels=labels, normalised=found.normalised or not whole)


def _variance_and_mean(tracer: Tracer, call: Call) -> Filter:
    found = _reduction(tracer, call)
    for output in call.outputs[1:]:
        _set(tracer, output, found)
    return found


def _normalisation(tracer: Tracer, call: Call) -> Filter | None:
    """A batch norm, with statistics of its own, or a layer norm over a filter."""
    values = call.inputs["input"]
    if call.inputs.get("running_mean") is not None:
        return None
    dim = 1 if "normalized_shape" not in call.inputs else values.ndim - 1
    found = [filter_of(tracer, values)]
    labels = dict(found[0].labels)
    for scale in (call.inputs.get("weight"), call.inputs.get("bias")):
        if scale is None:
            continue
        found.append(filter_of(tracer, scale))
        along = found[-1].labels.get(0)
        if along is None or dim not in labels:
            return None
        tracer.labels.merge(labels[dim], along, "")
    return Filter(labels, frozenset().union(*(one.parts for one in found)), normalised=True)


def _weight_norm(tracer: Tracer, call: Call) -> Filter:
    """g v / |v|, with a norm for each position along one dimension."""
    found = _aligned(tracer, call, [call.inputs["v"], call.inputs["g"]], call.output.shape)
    return replace(found, normalised=True)


def _contraction(tracer: Tracer, call: Call) -> Filter | None:
    """A product of matrices and vectors: the last positions of the first go with the first positions of the second."""
    left = call.inputs["mat1" if call.name == "addmm" else "self"]
    right = next(call.inputs[name] for name in ("mat2", "vec", "tensor", "other") if name in call.inputs)
    if call.name == "addmm":
        return None
    one, other = filter_of(tracer, left), filter_of(tracer, right)
    inner = [one.labels.get(left.ndim - 1), other.labels.get(0)]
    for along, opposite in (inner, inner[::-1]):
        if along is not None and opposite is None and len(along) > 1:
            tracer.freeze(along, f"it meets something constant in {call.name}")
    if inner[0] is not None and inner[1] is not None:
        tracer.labels.merge(inner[0], inner[1], "")
    labels = {0: one.labels.get(0) if left.ndim == 2 else None, 1: other.labels.get(1) if right.ndim == 2 else None}
    return Filter(
        {dim: along for dim, along in labels.items() if along is not None},
        one.parts | other.parts,
        one.normalised or other.normalised,
    )


_MOVES = frozenset(
    {"view", "_unsafe_view", "reshape", "_reshape_alias", "alias", "detach", "permute", "transpose", "t", "expand"}
    | {"squeeze", "unsqueeze", "repeat", "tile", "flip", "movedim", "squeeze_copy", "lift_fresh"}
    | {"clone", "_to_copy", "contiguous"}
)
_ADDITIVE = frozenset({"sum", "norm", "linalg_vector_norm"})
_PRODUCTS = frozenset({"mm", "addmm"})
_RULES: Mapping[str, Callable[[Tracer, Call], Filter | None]] = {
    **dict.fromkeys(("mean", "sum", "amax", "amin", "std", "var", "norm", "linalg_vector_norm"), _reduction),
    **dict.fromkeys(("var_mean", "std_mean"), _variance_and_mean),
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit", "batch_norm", "native_layer_norm"), _normalisation
    ),
    **dict.fromkeys(("mv", "dot", "vdot", "mm", "addmm"), _contraction),
    "_weight_norm_interface": _weight_norm,
}


@dataclass(frozen=True)
class MadeOf:
    """The parameter that stands for a computed filter.

    Attributes:
        weight: Its name.
        layer: Name of the layer.
        kind: Of the layer, before the operation: `computed` or `normalised`.
        flipped: Whether the filter is transposed.
    """

    weight: str
    layer: str
    kind: str
    flipped: bool


def bind_filter(tracer: Tracer, tensor: Tensor, labels: Mapping[int, Tensor]) -> MadeOf | None:
    """Gives the parameters of a computed filter these labels, dimension -> int64 (size,), along its dimensions.

    Returns:
        The parameter of the filter's shape, which stands for it; None if there is none. Then nothing is done.
    """
    found, where = filter_of(tracer, tensor), tracer.running_module
    wanted = {dim: along for dim, along in labels.items() if tensor.shape[dim] > 1}
    same = [name for name in sorted(found.parts) if sorted(tracer.shape(name)) == sorted(tensor.shape)]
    if tensor in tracer.data or not same or not wanted.keys() <= found.labels.keys():
        return None
    weight = min(same, key=lambda name: (not tracer.is_parameter(name), name))  # a parameter rather than a mask
    flips = [flipped for flipped in (False, True) if _lies(tracer, weight, found, tensor, wanted, flipped)]
    inside = bool(where) and all(name.startswith(f"{where}.") for name in found.parts)
    if not flips or (found.normalised and not inside):
        return None
    for dim, along in wanted.items():
        tracer.labels.merge(found.labels[dim], along, "it is read together with something constant")
    tracer.bind_parts(found.parts)
    owner = weight.partition(".parametrizations.")[0] if ".parametrizations." in weight else weight.rpartition(".")[0]
    holds = isinstance(tracer.modules.get(owner), nn.modules.conv._ConvNd | nn.Linear)
    layer = where if found.normalised else owner if holds else weight.removesuffix(".weight")
    return MadeOf(weight, layer, "normalised" if found.normalised else "computed", flips[0])


def _lies(
    tracer: Tracer, weight: str, found: Filter, tensor: Tensor, wanted: Mapping[int, Tensor], flipped: bool
) -> bool:
    """Whether a parameter lies in a filter as it is, or (of two dimensions) transposed."""
    shape = tracer.shape(weight)
    if (flipped and len(shape) != 2) or (shape[::-1] if flipped else shape) != tensor.shape:
        return False
    return all(
        torch.equal(
            tracer.labels.resolve(tracer.part_labels(weight, 1 - dim if flipped else dim, tensor.shape[dim])),
            tracer.labels.resolve(found.labels[dim]),
        )
        for dim in wanted
    )
