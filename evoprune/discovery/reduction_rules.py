"""Rules for operations that take several elements together: sums, means, maxima, norms and softmax.

Over pixels, maps keep their places. Over maps, the operation runs over the maps that stay: the plan has a record of it,
by which a masked network computes it as the compacted one does.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.discovery.data_moves import Shadow
from evoprune.discovery.labels import labels_along, varying_dims
from evoprune.discovery.tracing import Call, Tracer
from evoprune.space.reductions import SOFTMAX

TOGETHER = "takes all its maps together"


def reduction(tracer: Tracer, call: Call) -> Shadow:
    """A sum, mean, maximum or norm: over pixels, maps keep their places; over maps, it is one of those that stay."""
    earlier, values = tracer.count_call(call.name), call.inputs["self"]
    shadow = tracer.shadow(values)
    dims = call.inputs.get("dim")
    dims = list(range(shadow.ndim)) if dims is None or dims == [] else dims if isinstance(dims, list) else [dims]
    dims = sorted({dim % max(shadow.ndim, 1) for dim in dims}, reverse=True)
    over = set(dims) & set(varying_dims(shadow))
    if over and (len(over) > 1 or call.name in ("argmax", "argmin")):
        tracer.freeze(shadow, f"{call.name} {TOGETHER}")
        return None
    if over:
        over_maps(tracer, call, over.pop(), earlier)
        if call.name in ("max", "min") and len(call.outputs) == 2:
            tracer.freeze_if_read(call.outputs[1], shadow, f"the position of its {call.name}imum is read")
        return None
    kept_dims = call.output.ndim == shadow.ndim
    for dim in dims:
        shadow = shadow.narrow(dim, 0, 1) if kept_dims else shadow.select(dim, 0)
    return shadow


def along_dim(tracer: Tracer, call: Call) -> Shadow:
    """Softmax along maps is one of the maps that stay. Other operations along maps (sums so far, sorting) keep them."""
    earlier, shadow = tracer.count_call(call.name), tracer.shadow(call.inputs["self"])
    dim = call.inputs["dim"] % max(shadow.ndim, 1)
    if dim in varying_dims(shadow):
        if call.name in SOFTMAX:
            over_maps(tracer, call, dim, earlier)
        else:
            tracer.freeze(shadow, f"{call.name} {TOGETHER}")
    return shadow


def layer_norm(tracer: Tracer, call: Call) -> Shadow:
    """Statistics over maps along one of the last dimensions."""
    earlier, values, weight = tracer.count_call(call.name), call.inputs["input"], call.inputs["weight"]
    shadow = tracer.shadow(values)
    count = len(call.inputs["normalized_shape"])
    dims = varying_dims(shadow)
    if all(dim < shadow.ndim - count for dim in dims):
        return [shadow]
    name = tracer.name(weight)
    owned = name is not None and isinstance(tracer.owner(name), nn.LayerNorm)
    if count == 1 and owned and name is not None and _is_norm_alone(tracer, name):
        tracer.add_norm(name)
        tracer.attach(weight, tracer.along(values, -1))
        tracer.attach(call.inputs["bias"], tracer.along(values, -1))
        return [shadow]
    over_maps(tracer, call, dims[0], earlier)
    for scale in (weight, call.inputs["bias"]):
        _attach(tracer, scale, dims[0] - (shadow.ndim - count), labels_along(shadow, dims[0]))
    return [tracer.shadow(values)]


def _is_norm_alone(tracer: Tracer, name: str) -> bool:
    """Whether the module of a norm's scale has no other one in it, such as the activation that follows."""
    return not any(True for _ in (tracer.owner(name) or nn.Identity()).children())


def _attach(tracer: Tracer, scale: Tensor | None, dim: int, labels: Tensor) -> None:
    """Gives a norm's scale or shift these labels along a dimension, int64 (size,)."""
    name = tracer.name(scale)
    if scale is not None and scale.ndim > 1 and name is not None:
        tracer.bind(name, dim, labels)
    else:
        tracer.attach(scale, labels)


def group_norm(tracer: Tracer, call: Call) -> Shadow:
    """Statistics over groups of maps.

    Groups are removed whole, or keep equal widths, whichever gives more genes; equal widths if the norm has no scale,
    because its number of groups is then unknown.
    """
    earlier, values, weight = tracer.count_call(call.name), call.inputs["input"], call.inputs["weight"]
    name, groups = tracer.name(weight), call.inputs["group"]
    owned = name is not None and isinstance(tracer.owner(name), nn.GroupNorm)
    blocks = tracer.along(values, 1).reshape(groups, -1)
    whole_groups = owned and groups > 1 and groups >= blocks.shape[1]
    constant = "it shares a normalisation's group with something constant"
    tracer.labels.merge(blocks, blocks[:, :1] if whole_groups else blocks[:1], constant)
    maps = tracer.along(values, 1)
    if owned and name is not None and (whole_groups or _is_norm_alone(tracer, name)):
        tracer.add_norm(name, blocks.shape[1] if whole_groups else 0)
    elif 1 in varying_dims(tracer.shadow(values)):
        over_maps(tracer, call, 1, earlier)
    tracer.attach(weight, maps)
    tracer.attach(call.inputs["bias"], maps)
    return [tracer.shadow(values)]


def over_maps(tracer: Tracer, call: Call, dim: int, earlier: int) -> None:
    """Records that a call takes the maps along a dimension of its first input together.

    Args:
        tracer: Follows the forward pass.
        call: The call.
        dim: The dimension.
        earlier: Number of calls of the same operation by the same module before it.
    """
    labels = labels_along(tracer.shadow(call.tensors[0]), dim)
    module = tracer.running_module
    tracer.outside.add_reduction(module, call.name, earlier, dim, _one_per_map(labels))
    tracer.outside.add_size(module, "normalized_shape", labels)


def _one_per_map(labels: Tensor) -> Tensor:
    """Each label once if all of them are repeated equally often in a row (the pixels of a map). labels: int64 (n,)."""
    changes = np.flatnonzero(torch.diff(labels).numpy()) + 1
    return labels[:: math.gcd(len(labels), *changes.tolist())]
