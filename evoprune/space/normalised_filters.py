"""Normalised filters in a masked network: their modules are computed over the maps that stay."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evoprune.space.phenotype import Phenotype
from evoprune.space.plan import Layer


@dataclass(frozen=True, eq=False)
class ModuleOverKept:
    """A forward hook that computes a module over the maps that stay, with zero elsewhere.

    Attributes:
        cut: The module without the removed positions; its parameters are replaced by those of the masked module.
        kept: (tensor, dimension) -> positions that stay, int64.
        inputs: int64, input maps that stay.
        outputs: int64, output maps that stay.
        dim: Dimension of input and output along which the maps lie.
    """

    cut: nn.Module
    kept: Mapping[tuple[str, int], Tensor]
    inputs: Tensor
    outputs: Tensor
    dim: int

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The output of the module with these arguments, computed anew."""
        tensors = dict((*module.named_parameters(), *module.named_buffers()))
        for (name, dim), index in self.kept.items():
            tensors[name] = tensors[name].index_select(dim, index.to(output.device))
        values = args[0].index_select(self.dim, self.inputs.to(output.device))
        result = functional_call(self.cut, tensors, (values, *args[1:]))
        return torch.zeros_like(output).index_copy(self.dim, self.outputs.to(output.device), result)


def over_kept(layer: Layer, cut: nn.Module, phenotype: Phenotype) -> ModuleOverKept:
    """The hook of a layer's module. cut: the module without the removed positions."""
    inputs, outputs = _maps_that_stay(layer, phenotype)
    prefix = f"{layer.name}."
    kept = {
        (name.removeprefix(prefix), dim): torch.from_numpy(index)
        for (name, dim), index in phenotype.kept.items()
        if name.startswith(prefix)
    }
    return ModuleOverKept(cut, kept, inputs, outputs, -1 if "linear" in layer.kind else 1)


def _maps_that_stay(layer: Layer, phenotype: Phenotype) -> tuple[Tensor, Tensor]:
    """Input and output maps of a layer that stay: int64 each."""

    def along(dim: int) -> Tensor:
        index = phenotype.kept.get((layer.weight, dim))
        return torch.arange(layer.shape[dim]) if index is None else torch.from_numpy(index)

    rows, columns = along(layer.out_dim), along(layer.in_dim)
    transposed = "transposed" in layer.kind
    within = rows if transposed else columns  # positions in a group
    size = layer.shape[1]
    groups = torch.arange(layer.groups)
    if layer.channels_per_group:
        first = columns if transposed else rows
        groups = (first // layer.channels_per_group).unique()
    others = (groups[:, None] * size + within).reshape(-1) if layer.groups > 1 else within
    return (columns, others) if transposed else (others, rows)
