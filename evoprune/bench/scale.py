"""How many workers a driver keeps busy: measured on this machine's cores, simulated beyond them.

Measured: Ray actors, one a core, that score for real. Simulated: the same driver, search, record and messages, but each
worker is a coroutine that waits as long as a real score takes, some dozens of them in one process; what that leaves out
is a cluster's network, and the start of its processes.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from evoprune.bench.overhead import IMAGES, NETWORK, MadeUpScores
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
from evoprune.scoring.candidate import Candidate, Outcome
from evoprune.scoring.conditions import Conditions, ImageRecord
from evoprune.scoring.problem import make_problem
from evoprune.scoring.scorer import Problem
from evoprune.search.algorithms import make_algorithm
from evoprune.search.loop import LoopState, evolve
from evoprune.space.cost import cost
from evoprune.space.search_space import SearchSpace
from evoprune.workers.actor_pool import ActorPool
from evoprune.workers.workers import RayPool, RayWorkers, open_worker_pool, score

SIMULATED = (8, 64, 256, 1000)
A_WORKER = 4
"""Candidates a worker and generation."""

GENERATIONS = 3
WORKERS_A_PROCESS = 64
CALIBRATION = 64


@dataclass(frozen=True)
class ScaleRow:
    """busy_share: of the workers' time, what they spend on scoring (or waiting in its place), in 0..1.

    candidates_per_second: over a steady-state search with its record. driver_cpu_share: of one core.
    driver_memory_mib: the driver's resident memory at the end. bytes_per_candidate: a candidate's share of what a call
    carries to a worker and back, as pickled, without Ray's envelopes and what is sent once a node.
    """

    workers: int
    simulated: bool
    busy_share: float
    candidates_per_second: float
    driver_cpu_share: float
    driver_memory_mib: float
    bytes_per_candidate: float


@dataclass(frozen=True)
class Waiting:
    """In the place of a problem."""

    seconds: float


class Host:
    """Workers that only wait, as coroutines of one process; each does one thing at a time, in its order."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._scores = MadeUpScores()
        self._busy: dict[int, asyncio.Lock] = {}

    async def prepare(self, worker: int, problem: list[Any]) -> None:
        self._busy.setdefault(worker, asyncio.Lock())

    async def score(
        self, worker: int, problem: list[Any], conditions: list[Any], genomes: list[bytes]
    ) -> list[Outcome]:
        async with self._busy.setdefault(worker, asyncio.Lock()):
            await asyncio.sleep(self._seconds * len(genomes))
            return [self._scores.score(np.frombuffer(data, dtype=np.uint8)) for data in genomes]


class _Method:
    """One method of one simulated worker, called as an actor's."""

    def __init__(self, method: Any, worker: int):
        self._method, self._worker = method, worker

    def remote(self, *arguments: Any) -> Any:
        return self._method.remote(self._worker, *arguments)


class _Simulated:
    """One of a host's workers, as a team sees an actor."""

    def __init__(self, host: Any, worker: int):
        self.prepare, self.score = _Method(host.prepare, worker), _Method(host.score, worker)


def bench_scale(simulated: Sequence[int], seconds: float | None, report: Callable[[str], None]) -> list[ScaleRow]:
    """From one worker to this machine's cores as measured, then so many simulated ones.

    seconds: what a simulated score takes; None: as long as a measured one on one worker.
    """
    rows = []
    for count in range(1, (os.cpu_count() or 1) + 1):
        with open_worker_pool(WorkersConfig(count=count), torch.device("cpu")) as pool:
            assert isinstance(pool, RayPool)
            row, took = _row(pool.workers(_problem()), None)
        seconds = seconds or took
        rows.append(row)
        report(_line(row))
    assert seconds is not None
    for count in simulated:
        with _simulated(count, seconds) as workers:
            row, _ = _row(workers, seconds)
        rows.append(row)
        report(_line(row))
    return rows


@contextmanager
def _simulated(count: int, seconds: float) -> Iterator[RayWorkers]:
    with open_worker_pool(WorkersConfig(count=1), torch.device("cpu")) as pool:
        assert isinstance(pool, RayPool)
        ray = pool.actors.ray
        remote = ray.remote(Host).options(num_cpus=0, max_concurrency=4 * WORKERS_A_PROCESS)
        hosts = [remote.remote(seconds) for _ in range(-(-count // WORKERS_A_PROCESS))]
        numbers = iter(range(count))

        def enlist() -> _Simulated:
            number = next(numbers)
            return _Simulated(hosts[number % len(hosts)], number)

        actors = ActorPool(ray, enlist, lambda: count, pool.note)
        yield RayWorkers(actors, cast(Problem, Waiting(seconds)), pool.config)


def _space() -> tuple[Any, SearchSpace]:
    network = build_network(NETWORK, (1, 28, 28), 10, torch.Generator().manual_seed(0)).eval()
    return network, search_space(network, torch.zeros(1, 1, 28, 28))


def _problem() -> Problem:
    """The paper's network at half width, untrained, on noise: what is computed is the same, and nothing stops early."""
    network, space = _space()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES // 4, 1, 28, 28, generator=generator)
    labels = torch.randint(10, (len(images),), generator=generator)
    device = torch.device("cpu")
    return make_problem(
        network, space, images[:CALIBRATION], images, labels, tolerance=1.0, compensate=False, device=device
    )


def _row(workers: Any, simulated_seconds: float | None) -> tuple[ScaleRow, float]:
    """The row of one search, and how long a score took. simulated_seconds: None where it is measured."""
    simulated = simulated_seconds is not None
    network, space = _space()
    config = SearchConfig(
        population=max(A_WORKER * workers.count, 8), generations=GENERATIONS, steady_state=True, stop_dominated=False
    )
    preferences, rng = magnitude_preferences(network, space), np.random.default_rng(0)
    algorithm = make_algorithm(space, config, preferences, lambda genome: float(cost(space, genome).macs), rng)
    images = IMAGES if simulated else IMAGES // 4
    score(workers, [space.full()] * 2 * workers.count, Conditions(np.arange(images)))  # everybody is there
    scored: list[Candidate] = []
    with tempfile.TemporaryDirectory(prefix="evoprune-") as place:
        folder = RunFolder(Path(place))

        def keep(generation: int, told: Sequence[Candidate], state: LoopState) -> None:
            scored.extend(candidate for candidate in told if not candidate.cached)
            files.write_parquet(folder.candidates(generation), candidates_frame(told))
            write_snapshot(folder, Snapshot(generation, algorithm.state(), loop_to_json(state), {}))

        started, cpu = time.perf_counter(), time.process_time()
        stands = LoopState(ImageRecord.empty(images))
        evolve(algorithm, space, workers, config, 0, {}, stands, SilentProgress(), keep)
        elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    spent = sum(simulated_seconds or candidate.score.eval_seconds for candidate in scored)
    row = ScaleRow(
        workers=workers.count,
        simulated=simulated,
        busy_share=round(spent / (workers.count * elapsed), 4),
        candidates_per_second=round(len(scored) / elapsed, 2),
        driver_cpu_share=round(cpu / elapsed, 4),
        driver_memory_mib=round(_resident_bytes() / 2**20, 1),
        bytes_per_candidate=round(_bytes_of_a_candidate(scored), 1),
    )
    return row, spent / len(scored)


def _bytes_of_a_candidate(scored: Sequence[Candidate]) -> float:
    genomes = [candidate.genome.tobytes() for candidate in scored]
    back = [Outcome.of(candidate.score, np.zeros(candidate.score.images_seen, dtype=bool)) for candidate in scored]
    return sum(len(ForkingPickler.dumps([one])) for one in (*genomes, *back)) / len(scored)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _line(row: ScaleRow) -> str:
    kind = "simulated" if row.simulated else "measured"
    return (
        f"{row.workers} workers ({kind}): busy {row.busy_share:.1%}, {row.candidates_per_second:.1f} candidates/s, "
        f"driver {row.driver_cpu_share:.1%} of a core, {row.driver_memory_mib:.0f} MiB"
    )


def write_rows(path: Path, rows: Sequence[ScaleRow]) -> None:
    """The table as CSV. Raises RunFolderError where it cannot be written."""
    files.write_text(path, pd.DataFrame(list(rows)).to_csv(index=False))
