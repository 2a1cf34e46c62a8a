"""Storage of masked weights: the weights that stay with short lists of their positions, instead of zeros.

A layer that loses kernels or taps is stored as `<weight>.values` (the weights that stay, row-major), `<weight>.kernels`
(positions of kernels that stay, row-major over the cut outputs x inputs) and `<weight>.strides` (start and stride of
each mask in use), if that takes fewer bytes than zeros.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from evoprune.errors import SearchSpaceError
from evoprune.space.cost import packed_layers
from evoprune.space.phenotype import Phenotype
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import cut_masks


def pack(tensors: Mapping[str, Tensor], space: SearchSpace, phenotype: Phenotype) -> dict[str, Tensor]:
    """A compacted network's state dict in its stored form. tensors: with zeros for masked weights."""
    masks, packed = cut_masks(space, phenotype), packed_layers(space, phenotype)
    result = {}
    for name, tensor in tensors.items():
        if name not in packed:
            result[name] = tensor
            continue
        result[f"{name}.values"] = tensor[masks[name]].contiguous()
        result |= _lists(name, space, phenotype)
    return result


def unpack(packed: Mapping[str, Tensor], space: SearchSpace, phenotype: Phenotype) -> dict[str, Tensor]:
    """The state dict that `pack` stored, bit for bit, with zeros for masked weights.

    Raises:
        SearchSpaceError: If the lists are not those of the phenotype.
    """
    masks, names = cut_masks(space, phenotype), packed_layers(space, phenotype)
    result = {name: tensor for name, tensor in packed.items() if not _belongs(name, names)}
    for name in names:
        wanted, values = _lists(name, space, phenotype), packed.get(f"{name}.values")
        same = all(key in packed and torch.equal(packed[key].long(), value.long()) for key, value in wanted.items())
        if values is None or not same or values.numel() != int(masks[name].sum()):
            raise SearchSpaceError(
                f"the stored kernels and strides of {name} are not those of the genome: it is damaged"
            )
        result[name] = values.new_zeros(masks[name].shape).masked_scatter(masks[name], values)
    return result


def _belongs(name: str, packed: frozenset[str]) -> bool:
    weight, _, part = name.rpartition(".")
    return part in ("values", "kernels", "strides") and weight in packed


def _lists(weight: str, space: SearchSpace, phenotype: Phenotype) -> dict[str, Tensor]:
    """The stored lists of a layer: kernels that stay, int (kept,), and masks in use, uint8 (masks, 2)."""
    layer, kernels = space.layer(weight), phenotype.kernels[weight]
    present = np.any(kernels, axis=2)
    lists = {}
    if any(genes.weight == weight for genes in space.kernels):
        rows, columns = (
            phenotype.kept.get((weight, dim), np.arange(layer.shape[dim])) for dim in (layer.out_dim, layer.in_dim)
        )
        positions = np.flatnonzero(present[np.ix_(rows, columns)])
        small = len(rows) * len(columns) <= np.iinfo(np.uint16).max + 1
        lists[f"{weight}.kernels"] = torch.from_numpy(positions.astype(np.uint16 if small else np.int32))
    for genes in space.strides:
        if genes.weight == weight:
            values = phenotype.genome[genes.genes][np.unique(genes.of_kernel[present])]
            table = np.array([(mask.start, mask.stride) for mask in genes.table], dtype=np.uint8)
            lists[f"{weight}.strides"] = torch.from_numpy(table[values])
    return lists
