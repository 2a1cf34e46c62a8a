"""The cost that a search minimised, in the tables and of the whole network."""

from evoprune.config.schema import CostName
from evoprune.latency.prediction import LatencyTable
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.space.cost import cost
from evoprune.space.search_space import SearchSpace


def cost_column(name: CostName) -> str:
    """The column of candidates and survivors that has this cost: of latency, what the search took it for."""
    return "predicted_latency_ms" if name == "latency_ms" else name


def whole_cost(folder: RunFolder, space: SearchSpace, name: CostName) -> float:
    """What the unpruned network costs, in the cost's unit; latency by the layers' times that the folder has."""
    whole = space.full()
    if name == "latency_ms":
        table = LatencyTable.from_dict(files.read_json(folder.latency)["table"])
        return table.predict(space, space.phenotype(whole))
    return float(getattr(cost(space, whole), name))
