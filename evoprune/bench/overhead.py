"""The cost of a search besides scoring: a whole search, its record included, with a scorer that does nothing."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch

from evoprune.bench.made_up_search import IMAGES, MadeUpScorer, recorded_search, untrained_network
from evoprune.config.schema import SearchConfig, WorkersConfig
from evoprune.record import files
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.scorer import Problem
from evoprune.workers.protocol import score
from evoprune.workers.workers import open_worker_pool


@dataclass(frozen=True)
class OverheadRow:
    """The overhead of one search.

    Attributes:
        backend: of the workers.
        workers: number of workers.
        population: candidates a generation.
        generations: generations bred after the first population.
        candidates: number of candidates of all generations.
        candidates_per_second: through driver, workers and record, over the whole search.
    """

    backend: str
    workers: int
    population: int
    generations: int
    candidates: int
    candidates_per_second: float


@dataclass(frozen=True)
class MadeUpProblem:
    """Has the interface of a problem whose scores are made up."""

    def scorer(self, device: torch.device) -> MadeUpScorer:
        """The scorer of made-up scores."""
        return MadeUpScorer()


def bench_overhead(population: int, generations: int, workers: WorkersConfig) -> OverheadRow:
    """Times a search over the paper's network at half width in which no network is ever run.

    Raises:
        WorkerError: the workers cannot be had.
    """
    network, space = untrained_network()
    config = SearchConfig(population=population, generations=generations)
    with open_worker_pool(workers, torch.device("cpu")) as pool:
        team = pool.workers(cast(Problem, MadeUpProblem()))
        score(team, [space.full()] * 64, Conditions(np.arange(IMAGES)))  # Every worker has started by then.
        started = time.perf_counter()
        candidates = len(recorded_search(network, space, team, config, IMAGES))
        seconds = time.perf_counter() - started
        count = team.count
    return OverheadRow(workers.backend, count, population, generations, candidates, round(candidates / seconds, 1))


def write_row(path: Path, row: OverheadRow) -> None:
    """Writes the table as CSV.

    Raises:
        RunFolderError: the file cannot be written.
    """
    files.write_text(path, pd.DataFrame([row]).to_csv(index=False))
