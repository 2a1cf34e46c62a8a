"""What the search costs besides scoring: a whole search, its record included, with a scorer that does nothing."""

import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from evoprune.config.schema import SearchConfig, WorkersConfig
from evoprune.criteria.preferences import magnitude_preferences
from evoprune.discovery.discover import search_space
from evoprune.networks.zoo import build_network
from evoprune.progress import SilentProgress
from evoprune.record import files
from evoprune.record.checkpoint import Snapshot, write_snapshot
from evoprune.record.folder import RunFolder
from evoprune.record.loop_state import loop_to_json
from evoprune.record.tables import candidates_frame
from evoprune.scoring.candidate import Candidate, Outcome, Score
from evoprune.scoring.conditions import Conditions, ImageRecord
from evoprune.scoring.scorer import Problem
from evoprune.search.algorithms import Algorithm, make_algorithm
from evoprune.search.loop import LoopState, evolve
from evoprune.space.cost import cost
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.workers.workers import WorkerPool, open_worker_pool, score

NETWORK = "2x64C3-MP2-2x64C3-MP2-2x128C3-256FC-10"
IMAGES, TOLERATED = 2000, 200


@dataclass(frozen=True)
class OverheadRow:
    """candidates_per_second: through driver, workers and record, over a whole search of made-up scores."""

    backend: str
    workers: int
    population: int
    generations: int
    candidates: int
    candidates_per_second: float


class MadeUpScores:
    """In the place of a scorer: errors drawn from the genome itself, in no time."""

    def under(self, conditions: Conditions) -> None:
        pass

    def score(self, genome: Genome) -> Outcome:
        errors = 100 + zlib.crc32(genome.tobytes()) % 150
        macs = int(genome.sum())
        wrong = np.zeros(IMAGES, dtype=bool)
        wrong[:errors] = True
        return Outcome.of(Score(errors, IMAGES, IMAGES, errors <= TOLERATED, True, macs, macs, 4 * macs, 0.0), wrong)


@dataclass(frozen=True)
class Nothing:
    """In the place of a problem."""

    def scorer(self, device: torch.device) -> MadeUpScores:
        return MadeUpScores()


def bench_overhead(population: int, generations: int, workers: WorkersConfig) -> OverheadRow:
    """A search over the paper's network at half width in which no network is ever run."""
    network = build_network(NETWORK, (1, 28, 28), 10, torch.Generator().manual_seed(0)).eval()
    space = search_space(network, torch.zeros(1, 1, 28, 28))
    config = SearchConfig(population=population, generations=generations)
    preferences, rng = magnitude_preferences(network, space), np.random.default_rng(0)
    algorithm = make_algorithm(space, config, preferences, lambda genome: float(cost(space, genome).macs), rng)
    with (
        open_worker_pool(workers, torch.device("cpu")) as pool,
        tempfile.TemporaryDirectory(prefix="evoprune-") as folder,
    ):
        candidates, seconds, count = _timed(algorithm, space, config, pool, RunFolder(Path(folder)))
    return OverheadRow(workers.backend, count, population, generations, candidates, round(candidates / seconds, 1))


def _timed(
    algorithm: Algorithm, space: SearchSpace, config: SearchConfig, pool: WorkerPool, folder: RunFolder
) -> tuple[int, float, int]:
    """Candidates, seconds, workers."""
    workers = pool.workers(cast(Problem, Nothing()))
    score(workers, [space.full()] * 64, Conditions(np.arange(IMAGES)))  # everybody is there
    seen = 0

    def keep(generation: int, told: Sequence[Candidate], state: LoopState) -> None:
        nonlocal seen
        seen += len(told)
        files.write_parquet(folder.candidates(generation), candidates_frame(told))
        write_snapshot(folder, Snapshot(generation, algorithm.state(), loop_to_json(state), {}))

    started = time.perf_counter()
    known: dict[str, Any] = {}
    evolve(algorithm, space, workers, config, 0, known, LoopState(ImageRecord.empty(IMAGES)), SilentProgress(), keep)
    return seen, time.perf_counter() - started, workers.count


def write_row(path: Path, row: OverheadRow) -> None:
    """The table as CSV. Raises RunFolderError where it cannot be written."""
    files.write_text(path, pd.DataFrame([row]).to_csv(index=False))
