"""The cost that a search minimised, in the tables and of the whole network."""

from evoprune.config.schema import CostName
from evoprune.latency.prediction import LatencyTable
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.scoring.candidate_costs import cost_by_name, costs_of
from evoprune.space.search_space import SearchSpace


def cost_column(name: CostName) -> str:
    """The column of candidates and survivors that has this cost: of latency, what the search took it for."""
    return "predicted_latency_ms" if name == "latency_ms" else name


def whole_cost(folder: RunFolder, space: SearchSpace, name: CostName) -> float:
    """What the unpruned network costs, in the cost's unit; latency by the layers' times that the folder has."""
    table = LatencyTable.from_dict(files.read_json(folder.latency)["table"]) if name == "latency_ms" else None
    return float(cost_by_name(costs_of(space, space.phenotype(space.full()), table), name))
