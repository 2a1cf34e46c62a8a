"""A recorded generation of a real search, so that ways to score are compared on candidates that searches breed."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evoprune.config.loading import config_from_dict
from evoprune.config.schema import Config
from evoprune.costs.costs_by_name import find_cost
from evoprune.errors import ConfigError
from evoprune.pipeline.resuming import search_fingerprint
from evoprune.pipeline.run import run
from evoprune.progress import Progress
from evoprune.record import files
from evoprune.record.checkpoint import read_snapshot
from evoprune.record.folder import RunFolder
from evoprune.record.json_files import read_space
from evoprune.record.runs import flat_config, load_run
from evoprune.record.tables import candidates_of
from evoprune.scoring.candidate_costs import cost_in
from evoprune.scoring.conditions import Conditions, ImageRecord
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class Population:
    """The genomes of one generation of a search, and the state of the search when the generation started.

    Attributes:
        generation: its number.
        genomes: those that were scored.
        dominance_bounds: (cost, errors) of the front's candidates.
        wrong_share: how often each validation image was misclassified, in the problem's order.
    """

    generation: int
    genomes: tuple[Genome, ...]
    dominance_bounds: tuple[tuple[float, float], ...]
    wrong_share: np.ndarray

    def conditions(self) -> Conditions:
        """The conditions under which the generation was scored."""
        return Conditions(ImageRecord(self.wrong_share).order(), self.dominance_bounds)


def record_population(path: Path, config: Config, generation: int, progress: Progress) -> None:
    """Runs the config's search up to a generation, retrains nothing, and writes that generation to a file.

    Args:
        path: the file, JSON.
        config: the search.
        generation: 1 or more.
        progress: of the search.

    Raises:
        UserError: as `pipeline.run`.
    """
    if generation < 1:
        raise ConfigError(f"--generation must be 1 or more (bred from others), not {generation}")
    briefly = {"search.generations": generation, "retrain.epochs": 0, "retrain.compensation": "search"}
    with tempfile.TemporaryDirectory(prefix="evoprune-") as folder:
        done = run(config, briefly, out=Path(folder) / "run", progress=progress)
        here = RunFolder(done.root)
        space = read_space(here)
        snapshot = read_snapshot(here, generation - 1, search_fingerprint(load_run(done.root).config, space))
        scored = candidates_of(files.read_parquet([here.candidates(g) for g in range(generation)]))
        front = {candidate.key: candidate.score for candidate in scored if candidate.key in snapshot.algorithm["front"]}
        asked = candidates_of(files.read_parquet([here.candidates(generation)]))
    content = {
        "search": search_fingerprint(config, space),
        "generation": generation,
        "genomes": [candidate.genome.tobytes().hex() for candidate in asked if not candidate.cached],
        "known": [[cost_in(find_cost(config.search.cost).column, score), score.errors] for score in front.values()],
        "wrong_share": snapshot.loop["wrong_share"],
    }
    files.write_json(path, content)


def read_population(path: Path, config: Config, space: SearchSpace) -> Population:
    """The recorded generation.

    Raises:
        ConfigError: it is of another search than the config's, or the file is damaged.
    """
    content: Any = files.read_json(path)
    here = search_fingerprint(config, space)
    defaults = flat_config(config_from_dict({"name": config.name}))  # the file may be older than some keys
    damaged = f"{path} is damaged: it holds no generation of this search; remove it, so that it is recorded anew"
    try:
        recorded = defaults | content["search"]
        population = Population(
            generation=int(content["generation"]),
            genomes=tuple(np.frombuffer(bytes.fromhex(genome), dtype=np.uint8) for genome in content["genomes"]),
            dominance_bounds=tuple((float(cost), float(errors)) for cost, errors in content["known"]),
            wrong_share=np.array(content["wrong_share"], dtype=float),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(damaged) from error
    if differing := [key for key in here if recorded.get(key) != here[key]]:
        raise ConfigError(
            f"{path} was recorded under another {differing[0]} ({recorded.get(differing[0])}, not "
            f"{here[differing[0]]}); remove it, so that it is recorded anew"
        )
    if population.wrong_share.shape != (config.data.validation,) or not population.genomes:
        raise ConfigError(damaged)
    for genome in population.genomes:
        space.check(genome)
    return population
