"""A candidate's costs, and the one of them that a search minimises, by its name."""

from dataclasses import dataclass

from evoprune.config.choices import CostName
from evoprune.latency.prediction import LatencyTable
from evoprune.scoring.candidate import Score
from evoprune.space.cost import phenotype_cost
from evoprune.space.phenotype import Phenotype
from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True)
class Costs:
    """All costs of a phenotype. latency_ms: predicted for one image; None without a table of layer times."""

    macs: int
    params: int
    bytes: int
    latency_ms: float | None


def costs_of(space: SearchSpace, phenotype: Phenotype, latency: LatencyTable | None) -> Costs:
    """Counts MACs, parameters and bytes, and predicts the latency if there is a table of layer times."""
    counted = phenotype_cost(space, phenotype)
    predicted = None if latency is None else latency.predict(space, phenotype)
    return Costs(counted.macs, counted.params, counted.bytes, predicted)


def cost_by_name(costs: Costs | Score, name: CostName) -> float:
    """The cost that `search.cost` names: the only rule for it, for genomes and for scored candidates alike."""
    value: float | None = getattr(costs, name)
    assert value is not None, f"this search has no {name}"
    return value
