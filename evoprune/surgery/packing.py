"""How masked weights are stored: the weights that stay, and short lists of which ones they are, not zeros.

A layer that loses kernels or taps is kept as `<weight>.values` (every weight that stays, row-major),
`<weight>.kernels` (positions of kernels that stay, counted row-major over the cut outputs x inputs) and
`<weight>.strides` (a start and a stride for each mask that is in use), where that is smaller than with zeros.
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
    """A compacted network's state dict as it is stored. tensors: masked weights hold zeros."""
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
    """The compacted network's state dict, masked weights holding zeros: the way back from `pack`, to the bit.

    Raises SearchSpaceError where the lists are not those of the phenotype.
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
    """What the layer has genes for of: kernels that stay, int (kept,); masks in use, uint8 (masks, 2)."""
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
