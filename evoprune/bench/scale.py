"""The number of workers that a driver keeps busy: measured on this machine's cores, simulated beyond them.

Measured: Ray actors, one a core, that score for real. Simulated: the same driver, search, record and messages, but each
worker is a coroutine that waits as long as a real score takes, some dozens of them in one process; this leaves out a
cluster's network, and the start of its processes.
"""

import asyncio
import os
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

from evoprune.bench.made_up_search import IMAGE_SHAPE, IMAGES, MadeUpScorer, recorded_search, untrained_network
from evoprune.config.schema import SearchConfig, WorkersConfig
from evoprune.record import files
from evoprune.scoring.candidate import Candidate, Outcome
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.problem import make_problem
from evoprune.scoring.scorer import Problem
from evoprune.workers.actor_pool import ActorPool
from evoprune.workers.protocol import Workers, score
from evoprune.workers.ray_workers import RayWorkers
from evoprune.workers.workers import RayPool, open_worker_pool

SIMULATED = (8, 64, 256, 1000)
CANDIDATES_PER_WORKER = 4
"""Number of candidates for each worker in a generation."""

GENERATIONS = 3
WORKERS_PER_PROCESS = 64
MEASURED_IMAGES = IMAGES // 4
CALIBRATION = 64


@dataclass(frozen=True)
class ScaleRow:
    """One search with some number of workers.

    Attributes:
        workers: number of workers.
        simulated: whether the workers only wait.
        busy_share: share of the workers' time that they spend on scoring (or waiting in its place), 0..1.
        candidates_per_second: over a steady-state search with its record.
        driver_cpu_share: CPU time of the driver, as a share of one core.
        driver_memory_mib: the driver's resident memory at the end.
        bytes_per_candidate: size of a candidate's share of a call to a worker and its answer, as pickled, without
            Ray's envelopes and objects that are sent once a node.
    """

    workers: int
    simulated: bool
    busy_share: float
    candidates_per_second: float
    driver_cpu_share: float
    driver_memory_mib: float
    bytes_per_candidate: float


@dataclass(frozen=True)
class WaitingProblem:
    """Has the place of a problem whose candidates take this long to score."""

    seconds: float


class Host:
    """Simulated workers as coroutines of one process; each does one thing at a time, in order."""

    def __init__(self, seconds: float):
        """Starts without workers. seconds: duration of a score."""
        self._seconds = seconds
        self._scorer = MadeUpScorer()
        self._busy: dict[int, asyncio.Lock] = {}

    async def prepare(self, worker: int, problem: list[Any]) -> None:
        """As an actor's method, of one of the host's workers."""
        self._busy.setdefault(worker, asyncio.Lock())

    async def score(
        self, worker: int, problem: list[Any], conditions: list[Any], genomes: list[bytes]
    ) -> list[Outcome]:
        """As an actor's method, of one of the host's workers: waits, and makes the scores up."""
        async with self._busy.setdefault(worker, asyncio.Lock()):
            await asyncio.sleep(self._seconds * len(genomes))
            return [self._scorer.score(np.frombuffer(data, dtype=np.uint8)) for data in genomes]


class _ActorMethod:
    """One method of one simulated worker, called as an actor's."""

    def __init__(self, method: Any, worker: int):
        self._method, self._worker = method, worker

    def remote(self, *arguments: Any) -> Any:
        return self._method.remote(self._worker, *arguments)


class _SimulatedActor:
    """One of a host's workers, with the interface that an actor pool expects of an actor."""

    def __init__(self, host: Any, worker: int):
        self.prepare, self.score = _ActorMethod(host.prepare, worker), _ActorMethod(host.score, worker)


def bench_scale(simulated: Sequence[int], seconds: float | None, report: Callable[[str], None]) -> list[ScaleRow]:
    """Measures one worker to as many as this machine has cores, then simulates more.

    Args:
        simulated: numbers of simulated workers.
        seconds: duration of a simulated score. None: that of a measured one on one worker.
        report: receives one line for each row.
    """
    rows = []
    for count in range(1, (os.cpu_count() or 1) + 1):
        with open_worker_pool(WorkersConfig(count=count), torch.device("cpu")) as pool:
            assert isinstance(pool, RayPool)
            row, seconds_measured = _row(pool.workers(_measured_problem()), None)
        seconds = seconds or seconds_measured
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
        connection = pool.actors.connection
        ray = connection.ray
        remote = ray.remote(Host).options(num_cpus=0, max_concurrency=4 * WORKERS_PER_PROCESS)
        hosts = [remote.remote(seconds) for _ in range(-(-count // WORKERS_PER_PROCESS))]
        numbers = iter(range(count))

        def start_actor() -> _SimulatedActor:
            number = next(numbers)
            return _SimulatedActor(hosts[number % len(hosts)], number)

        actors = ActorPool(connection, start_actor, lambda: count)
        yield RayWorkers(actors, cast(Problem, WaitingProblem(seconds)), pool.config)


def _measured_problem() -> Problem:
    """The untrained network on noise: the computation is that of a trained one, and no scoring stops early."""
    network, space = untrained_network()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(MEASURED_IMAGES, *IMAGE_SHAPE, generator=generator)
    labels = torch.randint(10, (len(images),), generator=generator)
    device = torch.device("cpu")
    return make_problem(
        network, space, images[:CALIBRATION], images, labels, tolerance=1.0, compensate=False, device=device
    )


def _row(workers: Workers, simulated_seconds: float | None) -> tuple[ScaleRow, float]:
    """The row of one search, and the mean duration of a score. simulated_seconds: None if it is measured."""
    simulated = simulated_seconds is not None
    network, space = untrained_network()
    population = max(CANDIDATES_PER_WORKER * workers.count, 8)
    config = SearchConfig(population=population, generations=GENERATIONS, steady_state=True, stop_dominated=False)
    images = IMAGES if simulated else MEASURED_IMAGES
    score(workers, [space.full()] * 2 * workers.count, Conditions(np.arange(images)))  # Every worker has started.
    started, cpu = time.perf_counter(), time.process_time()
    candidates = recorded_search(network, space, workers, config, images)
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    scored = [candidate for candidate in candidates if not candidate.cached]
    spent = sum(simulated_seconds or candidate.score.eval_seconds for candidate in scored)
    row = ScaleRow(
        workers=workers.count,
        simulated=simulated,
        busy_share=round(spent / (workers.count * elapsed), 4),
        candidates_per_second=round(len(scored) / elapsed, 2),
        driver_cpu_share=round(cpu / elapsed, 4),
        driver_memory_mib=round(_resident_bytes() / 2**20, 1),
        bytes_per_candidate=round(_bytes_per_candidate(scored), 1),
    )
    return row, spent / len(scored)


def _bytes_per_candidate(scored: Sequence[Candidate]) -> float:
    genomes = [candidate.genome.tobytes() for candidate in scored]
    outcomes = [Outcome.of(candidate.score, np.zeros(candidate.score.images_seen, dtype=bool)) for candidate in scored]
    return sum(len(ForkingPickler.dumps([one])) for one in (*genomes, *outcomes)) / len(scored)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _line(row: ScaleRow) -> str:
    kind = "simulated" if row.simulated else "measured"
    return (
        f"{row.workers} workers ({kind}): busy {row.busy_share:.1%}, {row.candidates_per_second:.1f} candidates/s, "
        f"driver {row.driver_cpu_share:.1%} of a core, {row.driver_memory_mib:.0f} MiB"
    )


def write_rows(path: Path, rows: Sequence[ScaleRow]) -> None:
    """Writes the table as CSV.

    Raises:
        RunFolderError: the file cannot be written.
    """
    files.write_text(path, pd.DataFrame(list(rows)).to_csv(index=False))
