"""A candidate's costs, and the one of them that a search minimises, by its column."""

from collections.abc import Mapping
from dataclasses import dataclass

from evoprune.costs.cost_model import CostModel
from evoprune.costs.costs_by_name import COUNTED
from evoprune.scoring.candidate import Score
from evoprune.space.cost import phenotype_cost
from evoprune.space.phenotype import Phenotype
from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True)
class Costs:
    """All costs of a phenotype. other_costs: by column, the one that the search minimises if it is none of the rest."""

    macs: int
    params: int
    bytes: int
    other_costs: Mapping[str, float]


def costs_of(space: SearchSpace, phenotype: Phenotype, minimised: CostModel) -> Costs:
    """Counts MACs, parameters and bytes, and computes the cost that the search minimises."""
    counted, column = phenotype_cost(space, phenotype), minimised.column
    others = {} if column in COUNTED else {column: float(minimised.of(space, phenotype))}
    return Costs(counted.macs, counted.params, counted.bytes, others)


def cost_in(column: str, costs: Costs | Score) -> float:
    """The cost of a column: the only rule for it, for genomes and for scored candidates alike."""
    value: float = getattr(costs, column) if column in COUNTED else costs.other_costs[column]
    return value
