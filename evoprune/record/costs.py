"""The cost that a search minimises: its column in the tables, and its value for the unpruned network."""

from evoprune.config.choices import CostName
from evoprune.errors import RunFolderError
from evoprune.record.folder import RunFolder
from evoprune.record.json_files import read_latency_table
from evoprune.scoring.candidate_costs import cost_by_name, costs_of
from evoprune.space.search_space import SearchSpace


def cost_column(name: CostName) -> str:
    """The column of candidates and survivors that has this cost; for latency, as the search predicted it."""
    return "predicted_latency_ms" if name == "latency_ms" else name


def whole_cost(folder: RunFolder, space: SearchSpace, name: CostName) -> float:
    """The cost of the unpruned network.

    Args:
        folder: the run folder; for latency, it has the times of the layers.
        space: the search space of the unpruned network.
        name: the cost.

    Returns:
        The cost in its own unit: a number of MACs, parameters or bytes, or milliseconds.

    Raises:
        RunFolderError: the folder has no times of this space.
        DamagedFileError: their file is damaged.
    """
    table = read_latency_table(folder, space) if name == "latency_ms" else None
    if name == "latency_ms" and table is None:
        raise RunFolderError(f"{folder.latency} has no times of this run's layers; put it back from a copy")
    return float(cost_by_name(costs_of(space, space.phenotype(space.full()), table), name))
