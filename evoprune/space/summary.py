"""A search space as rows of a table."""

from dataclasses import dataclass

from evoprune.space.cost import cut_elements
from evoprune.space.plan import Frozen
from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True)
class LayerReport:
    """One layer. maps: number of output maps. genes: number of genes of its maps (0: it stays whole)."""

    name: str
    kind: str
    maps: int
    genes: int
    macs: int
    params: int


@dataclass(frozen=True)
class SpaceReport:
    """The search space of one network, with totals over the whole network."""

    network: str
    layers: tuple[LayerReport, ...]
    genes: int
    groups: int
    macs: int
    params: int
    frozen: tuple[Frozen, ...]


def space_report(network: str, space: SearchSpace) -> SpaceReport:
    """The report of a search space. network: its name. Layers are in the order of the forward pass."""
    elements = cut_elements(space, space.phenotype(space.full()))
    parameters = {tensor.name for tensor in space.tensors if tensor.parameter}
    genes = {name: group.size for group in space.groups for name in group.layers}
    layers = tuple(
        LayerReport(
            name=layer.name,
            kind=layer.kind,
            maps=layer.shape[layer.out_dim]
            * (layer.groups if layer.out_dim == 1 and "transposed" in layer.kind else 1),
            genes=genes.get(layer.name, 0),
            macs=elements[layer.weight] * layer.positions,
            params=sum(elements[name] for name in (layer.weight, f"{layer.name}.bias") if name in parameters),
        )
        for layer in space.layers
    )
    params = sum(elements[name] for name in parameters)
    macs = sum(layer.macs for layer in layers) + space.fixed_macs
    return SpaceReport(network, layers, space.genes, len(space.groups), macs, params, space.frozen)
