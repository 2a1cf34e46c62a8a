"""Rules for attention: products of two tensors of maps, and heads that are removed whole."""

from functools import partial

from torch import Tensor

from evoprune.discovery.data_moves import Shadow, unknown
from evoprune.discovery.labels import is_constant, labels_along, varying_dims
from evoprune.discovery.tracing import Call, Tracer
from evoprune.space.outside_tensors import Product

ROLES = ("batch", "row", "sum"), ("batch", "sum", "column")
"""The part of each dimension of both factors in a product (batch, rows, sums) x (batch, sums, columns)."""


def batched_product(tracer: Tracer, call: Call) -> Shadow:
    """A product of two tensors of matrices: maps lie along one dimension of the result, or are summed over.

    Maps of both factors that lie along the same dimension are merged. Maps along two dimensions stay whole.
    """
    left, right = (call.inputs[name] for name in (("self", "mat2") if call.name == "bmm" else ("batch1", "batch2")))
    factors = [(tensor, tracer.shadow(tensor)) for tensor in (left, right)]
    if all(is_constant(shadow) for _, shadow in factors):
        return None
    roles = {names[dim] for names, (_, shadow) in zip(ROLES, factors, strict=True) for dim in varying_dims(shadow)}
    if len(roles) != 1 or (call.name != "bmm" and not is_constant(tracer.shadow(call.inputs["self"]))):
        return unknown(tracer, call)
    role = roles.pop()
    along = []
    for names, (tensor, shadow) in zip(ROLES, factors, strict=True):
        if role in names and (not is_constant(shadow) or tensor.stride(names.index(role)) != 0):
            along.append(labels_along(shadow, names.index(role)))
        elif not is_constant(shadow):
            tracer.freeze(shadow, f"it is one map that {call.name} spreads over many")
    for other in along[1:]:
        tracer.labels.merge(along[0], other, f"it meets something constant in {call.name}")
    labels = tracer.labels.resolve(along[0])
    _add_product(tracer, left.numel() * right.shape[2], labels, role == "batch")
    if role == "sum":
        return None
    shape = [-1 if place == role else 1 for place in ("batch", "row", "column")]
    return labels.reshape(shape).expand(call.output.shape)


def _add_product(tracer: Tracer, macs: int, labels: Tensor, batched: bool) -> None:
    """Records the multiply-accumulates of a product by map.

    Args:
        tracer: Follows the forward pass.
        macs: Of the whole batch.
        labels: Of the maps, int64 (n,).
        batched: Whether the labels are those of all images, one image after the other.
    """
    images = tracer.batch if batched else 1
    of_first = labels[: len(labels) // images]
    if (
        len(labels) % images
        or macs % (tracer.batch * max(len(of_first), 1))
        or not bool((labels.reshape(images, -1) == of_first).all())
    ):
        return  # counted as a product that never changes
    tracer.add_product(partial(Product, macs // tracer.batch // len(of_first)), of_first)
