"""The cost that a search minimises: its column, its label, and its value for the unpruned network.

Reading a run never imports code that its folder names, so a run whose cost is the user's own has them in a file.
"""

from dataclasses import dataclass
from typing import Any

from evoprune.costs.cost_model import CostModel
from evoprune.costs.costs_by_name import find_cost
from evoprune.errors import RunFolderError
from evoprune.plugins.guard import is_own
from evoprune.record import files
from evoprune.record.environment import environment
from evoprune.record.folder import RunFolder
from evoprune.record.json_files import read_latency_table
from evoprune.record.schemas import StoredCost
from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True)
class CostInfo:
    """The parts of a cost that progress, tables and plots show.

    Attributes:
        name: as in `macs`.
        column: of candidates and survivors.
        label: of an axis.
    """

    name: str
    column: str
    label: str


def cost_info(folder: RunFolder, name: str) -> CostInfo:
    """The cost of a run.

    Args:
        folder: the run folder.
        name: its `search.cost`.

    Raises:
        RunFolderError: the folder lacks the file of the user's own cost.
        DamagedFileError: the file is damaged.
    """
    cost = files.read_model(folder.cost, StoredCost) if is_own(name) else find_cost(name)
    return CostInfo(cost.name, cost.column, cost.label)


def own_columns(folder: RunFolder) -> tuple[str, ...]:
    """The column of the run's cost, if that is the user's own. Raises DamagedFileError."""
    return (files.read_model(folder.cost, StoredCost).column,) if folder.cost.is_file() else ()


def whole_cost(folder: RunFolder, reference: RunFolder, space: SearchSpace, name: str) -> float:
    """The cost of the unpruned network.

    Args:
        folder: the run folder.
        reference: the folder of the run's first round; it may be the same.
        space: the search space of the first round.
        name: the cost: `search.cost`.

    Returns:
        The cost in its own unit: a number of MACs, parameters or bytes, milliseconds, or that of the user's own.

    Raises:
        RunFolderError: the folder lacks what was measured for the cost.
        DamagedFileError: the file of that is damaged.
    """
    if is_own(name):
        return files.read_model(folder.cost, StoredCost).whole
    cost = find_cost(name)
    if not load_measured(cost, reference, space, name):
        raise RunFolderError(f"{reference.latency} has no times of this run's layers; put it back from a copy")
    return cost.of(space, space.phenotype(space.full()))


def load_measured(cost: CostModel, folder: RunFolder, space: SearchSpace, name: str) -> bool:
    """Loads into a cost what was measured for it on this search space.

    Returns:
        Whether the cost is ready: nothing is measured for it, or the folder has it.
    """
    if not cost.measures:
        return True
    if is_own(name):
        stored = files.read_model(folder.cost, StoredCost) if folder.cost.is_file() else None
        measured = stored.measured if stored and (stored.cost, stored.space) == (name, space.fingerprint) else None
    else:
        table = read_latency_table(folder, space)
        measured = None if table is None else table.to_dict()
    if measured is not None:
        cost.load(measured)
    return measured is not None


def write_latency(folder: RunFolder, space: SearchSpace, table: Any) -> None:
    """Stores the times of the layers, for the cost latency_ms. Raises RunFolderError."""
    files.write_json(folder.latency, {"space": space.fingerprint, "machine": environment()["cpu"], "table": table})


def write_own_cost(
    folder: RunFolder, space: SearchSpace, name: str, cost: CostModel, whole: float, measured: Any
) -> None:
    """Stores what reading a run, or resuming it, needs of a cost of the user's own.

    Args:
        folder: the run folder.
        space: the search space.
        name: the cost: `search.cost`.
        cost: the cost.
        whole: of the unpruned network.
        measured: what was measured for it; None for nothing.

    Raises:
        RunFolderError: as `files.write_bytes`.
    """
    content = {
        "space": space.fingerprint,
        "cost": name,
        "name": cost.name,
        "column": cost.column,
        "label": cost.label,
        "whole": whole,
        "measured": measured,
    }
    files.write_json(folder.cost, content)
