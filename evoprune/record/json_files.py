"""Reading the JSON files of a run, each as what it describes: search space, batch sizes, latency, environment."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from evoprune.latency.prediction import LatencyTable
from evoprune.record import files
from evoprune.record.file_errors import damaged
from evoprune.record.folder import RunFolder
from evoprune.record.schemas import StoredEnvironment, StoredExecution, StoredIdentity, StoredLatency, StoredSpace
from evoprune.scoring.execution import Execution
from evoprune.space.cost import phenotype_cost
from evoprune.space.search_space import SearchSpace


def read_space(folder: RunFolder) -> SearchSpace:
    """The search space that the genomes of a run are of.

    Raises:
        RunFolderError: there is none.
        DamagedFileError: the file describes no search space.
    """
    path = folder.space
    stored = files.read_model(path, StoredSpace)
    try:
        space = SearchSpace.from_dict(stored.model_dump(mode="json"))
        _try_out(space)
    except Exception as error:  # a plan that contradicts itself fails somewhere in its use
        raise damaged(path, "its parts do not fit each other") from error
    return space


def read_execution(folder: RunFolder) -> Execution:
    """The batch sizes that candidates are scored with. Raises RunFolderError, DamagedFileError."""
    return Execution(**files.read_model(folder.execution, StoredExecution).model_dump())


def read_latency_table(folder: RunFolder, space: SearchSpace) -> LatencyTable | None:
    """The times of the layers of this search space; None if the folder has none, or those of another space.

    Raises:
        DamagedFileError: the file holds no such table.
    """
    path = folder.latency
    if not path.is_file():
        return None
    stored = files.read_model(path, StoredLatency)
    if stored.space != space.fingerprint:
        return None
    weights = {layer.weight for layer in space.layers}
    if unknown := [times.weight for times in stored.table.layers if times.weight not in weights]:
        raise damaged(path, f"it has times of {unknown[0]}, which is no layer of the search space")
    return LatencyTable.from_dict(stored.table.model_dump(mode="json"))


def read_environment(folder: RunFolder) -> Mapping[str, Any]:
    """Versions and machine, as `environment.environment` gives them. Raises RunFolderError, DamagedFileError."""
    return files.read_model(folder.environment, StoredEnvironment).root


def read_identity(folder: RunFolder) -> Mapping[str, str]:
    """The hashes of weights and data that a run was made on (`pipeline.identity`). Raises as `read_environment`."""
    return files.read_model(folder.identity, StoredIdentity).root


def _try_out(space: SearchSpace) -> None:
    """Develops three genomes: the full one, a random half and the smallest. Raises whatever a wrong plan leads to."""
    start = space.maps
    for part in space.inside_layers:
        if part.start != start:
            raise ValueError(f"the genes of {part.weight} start at {part.start}, not {start}")
        start += part.size
    rng = np.random.default_rng(0)
    for genome in (space.full(), space.random(rng, 0.5), space.random(rng, 0.0)):
        phenotype_cost(space, space.check(genome))
