"""Unstructured pruning as a reference method: masks on the single weights of a dense network.

It saves no time, because removed weights are multiplied as zeros. It saves storage: a layer is stored as
`<weight>.values` (the weights that stay, row-major) with `<weight>.bits` (one bit per weight) or `<weight>.gaps` (one
byte per value: the number of weights skipped before it), whichever is smaller; dense if neither is smaller.

References:
    Han, Mao and Dally 2016, section 2 (relative positions, zeros as fillers in long gaps).
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.space.cost import Cost
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import copied

WeightMasks = Mapping[str, Tensor]
"""Weight name -> bool of the weight's shape: the elements that stay."""

LONGEST_GAP = 255


def with_masked_weights(model: nn.Module, masks: WeightMasks) -> nn.Module:
    """A copy of the network with zeros for removed weights. `fit` with the same masks keeps them zero in training."""
    network = copied(model)
    with torch.no_grad():
        for name, mask in masks.items():
            parameter = network.get_parameter(name)
            parameter.masked_fill_(~mask.to(parameter.device), 0)
    return network


def sparse_cost(space: SearchSpace, masks: WeightMasks) -> Cost:
    """The cost of a network under masks. macs: of the weights that stay, although a dense product saves none."""
    left = {name: int(mask.sum()) for name, mask in masks.items()}
    macs, params, total = space.macs_outside_layers(space.full()), 0, 0
    for layer in space.layers:
        macs += left.get(layer.weight, int(np.prod(layer.shape))) * layer.positions
    for tensor in space.tensors:
        elements = int(np.prod(tensor.shape))
        params += left.get(tensor.name, elements) if tensor.parameter else 0
        if tensor.name in masks:
            total += stored_bytes(masks[tensor.name], tensor.itemsize)
        else:
            total += elements * tensor.itemsize
    return Cost(macs, params, total)


def stored_bytes(mask: Tensor, itemsize: int) -> int:
    """Bytes of a masked weight as `pack_sparse` stores it. itemsize: bytes per value."""
    return min(_sizes(mask, itemsize).values())


def pack_sparse(tensors: Mapping[str, Tensor], masks: WeightMasks) -> dict[str, Tensor]:
    """A masked network's state dict in its stored form."""
    packed = {}
    for name, tensor in tensors.items():
        sizes = _sizes(masks[name], tensor.element_size()) if name in masks else {"dense": 0}
        form = min(sizes, key=lambda form: sizes[form])
        if form == "dense":
            packed[name] = tensor
            continue
        mask = masks[name].cpu()
        values = tensor.detach().cpu()[mask]
        if form == "bits":
            packed[f"{name}.bits"] = torch.from_numpy(np.packbits(mask.numpy().reshape(-1)))
        else:
            gaps, real = _gaps(mask)
            packed[f"{name}.gaps"] = torch.from_numpy(gaps)
            values = values.new_zeros(len(gaps)).masked_scatter(torch.from_numpy(real), values)
        packed[f"{name}.values"] = values
    return packed


def unpack_sparse(packed: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The state dict that `pack_sparse` stored, bit for bit. shapes: of all weights."""
    tensors = {}
    for name, tensor in packed.items():
        weight, _, part = name.rpartition(".")
        if part not in ("bits", "gaps"):
            if part != "values" or weight not in shapes:
                tensors[name] = tensor
            continue
        size = int(np.prod(shapes[weight]))
        if part == "bits":
            places = np.flatnonzero(np.unpackbits(tensor.numpy(), count=size))
        else:
            places = np.cumsum(tensor.numpy().astype(np.int64) + 1) - 1
        values = packed[f"{weight}.values"]
        flat = values.new_zeros(size)
        flat[torch.from_numpy(places)] = values
        tensors[weight] = flat.reshape(shapes[weight])
    return tensors


def _sizes(mask: Tensor, itemsize: int) -> dict[str, int]:
    """Bytes in each form of storage."""
    flat = mask.cpu().numpy().reshape(-1)
    return {
        "dense": flat.size * itemsize,
        "bits": -(-flat.size // 8) + int(flat.sum()) * itemsize,
        "gaps": len(_gaps(mask)[0]) * (1 + itemsize),
    }


def _gaps(mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Number of weights skipped before each stored value, uint8; and whether the value is no filler, bool."""
    places = np.flatnonzero(mask.cpu().numpy().reshape(-1))
    skipped = np.diff(places, prepend=-1) - 1
    last = np.cumsum(skipped // (LONGEST_GAP + 1) + 1) - 1  # places of the weights' own values, behind their fillers
    gaps = np.full(last[-1] + 1 if len(last) else 0, LONGEST_GAP, dtype=np.uint8)
    real = np.zeros(len(gaps), dtype=bool)
    gaps[last], real[last] = skipped % (LONGEST_GAP + 1), True
    return gaps, real
