"""A search space as rows of a table."""

import re
from collections.abc import Sequence
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
class ReasonReport:
    """A reason for which layers stay whole. macs: of these layers. share: of the network's MACs, 0..1."""

    reason: str
    layers: int
    macs: int
    share: float


@dataclass(frozen=True)
class SpaceReport:
    """The search space of one network, with totals over the whole network. reasons: by falling MACs."""

    network: str
    layers: tuple[LayerReport, ...]
    genes: int
    groups: int
    macs: int
    params: int
    frozen: tuple[Frozen, ...]
    reasons: tuple[ReasonReport, ...]


def kind_of_reason(reason: str) -> str:
    """A reason that a part stays whole without what it names: modules, values, errors."""
    general = reason.partition(" (")[0].partition(": ")[0]
    return re.sub(r"^.+(?=, which did not run)", "a part", re.sub(r" by [-+.\de]+(?= of)", "", general))


def reason_reports(layers: Sequence[LayerReport], frozen: Sequence[Frozen], macs: int) -> tuple[ReasonReport, ...]:
    """The layers without genes and their MACs, added up by the kind of reason that keeps them whole.

    Args:
        layers: All layers of a network.
        frozen: Its parts that stay whole.
        macs: Of the whole network.
    """
    reason_of = {part.name: kind_of_reason(part.reason) for part in reversed(frozen)}
    whole: dict[str, list[int]] = {}
    for layer in layers:
        if not layer.genes and layer.name in reason_of:
            whole.setdefault(reason_of[layer.name], []).append(layer.macs)
    found = (
        ReasonReport(reason, len(counts), sum(counts), sum(counts) / macs if macs else 0.0)
        for reason, counts in whole.items()
    )
    return tuple(sorted(found, key=lambda report: -report.macs))


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
    macs = sum(layer.macs for layer in layers) + space.macs_outside_layers(space.full())
    reasons = reason_reports(layers, space.frozen, macs)
    return SpaceReport(network, layers, space.genes, len(space.groups), macs, params, space.frozen, reasons)
