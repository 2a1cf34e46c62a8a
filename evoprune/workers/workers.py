"""Who scores and retrains: this process alone, or Ray actors, one a core or a share of a GPU each.

Both give the same answers in the same order: results are put by the index of what was asked for, never by arrival.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from evoprune.config.schema import WorkersConfig
from evoprune.errors import WorkerError, type_and_first_line
from evoprune.scoring.candidate import Outcome
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.losses import Examples
from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Genome
from evoprune.training.fit import FitState
from evoprune.workers.actor import Actor, import_paths
from evoprune.workers.actor_pool import ActorPool
from evoprune.workers.cluster import check_answers, no_answer, not_started
from evoprune.workers.failures import Note, OnEpoch, OnScore
from evoprune.workers.ray_workers import RayWorkers
from evoprune.workers.retraining import Retraining
from evoprune.workers.serial_workers import SerialWorkers


class Workers(Protocol):
    """Scores candidates and retrains survivors of one problem."""

    @property
    def count(self) -> int:
        """How many work at once."""

    def submit(self, genomes: Sequence[Genome], conditions: Conditions) -> int:
        """Hands genomes over to be scored, after those before; does not wait. Returns a ticket for `collect`."""

    def collect(self, ticket: int, on_score: OnScore) -> list[Outcome]:
        """What scoring them says, in the order of the genomes; waits for it. Tickets are collected in their order."""

    def retrain(
        self, genomes: Sequence[Genome], states: Sequence[FitState | None], retraining: Retraining, on_epoch: OnEpoch
    ) -> list[FitState]:
        """Trains each genome's network from its state (None: from the start) to the end of the schedule."""

    def losses(self, genomes: Sequence[Genome], examples: Examples) -> list[float]:
        """The mean cross entropy of each genome's network, as `losses.loss_of`."""


def score(
    workers: Workers, genomes: Sequence[Genome], conditions: Conditions, on_score: OnScore = lambda done: None
) -> list[Outcome]:
    """Hands genomes over and waits for what scoring them says, in their order."""
    return workers.collect(workers.submit(genomes, conditions), on_score)


class WorkerPool(Protocol):
    """Where work is done, checked and ready before there is a problem to work on."""

    def workers(self, problem: Problem) -> Workers:
        """Workers that hold this problem."""


@contextmanager
def open_worker_pool(
    config: WorkersConfig, device: torch.device, note: Note = lambda text: None
) -> Iterator[WorkerPool]:
    """What the config asks for, for as long as the context lasts. note: told of workers and candidates that are lost.

    Raises WorkerError where no cluster answers, or it has fewer cores or GPUs than asked for.
    """
    if config.backend == "serial":
        yield SerialPool(device, config.threads, note)
        return
    with _ray_cluster(config) as ray:
        yield RayPool(_actor_pool(ray, config, device, note), config, note)


def _actor_pool(ray: Any, config: WorkersConfig, device: torch.device, note: Note) -> ActorPool:
    """Actors on this cluster, as many as the config asks for; by `auto`, as many as it has room for at any time."""

    def cores_and_gpus() -> tuple[int, int]:
        resources = ray.cluster_resources()
        return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))

    count, gpu_share = how_many(config, device, *cores_and_gpus())
    # no restarts by Ray: one that was on a node that left would wait for ever for another one
    remote = ray.remote(Actor).options(num_cpus=config.threads, num_gpus=gpu_share, max_restarts=0)

    def enlist() -> Any:
        return remote.remote(ray.get, import_paths(), config.threads, device.type)

    def wanted() -> int:
        try:
            return how_many(config, device, *cores_and_gpus())[0]
        except WorkerError:  # nodes have left: those that were asked for are there again when they come back
            return 1 if config.count == "auto" else count

    return ActorPool(ray, enlist, wanted, note)


@dataclass(frozen=True)
class SerialPool:
    """This process alone, with as many threads as one worker has elsewhere: sums come out the same."""

    device: torch.device
    threads: int
    note: Note = lambda text: None

    def workers(self, problem: Problem) -> Workers:
        return SerialWorkers(problem, self.device, self.threads, self.note)


@dataclass(frozen=True)
class RayPool:
    """A Ray cluster, and a team of actors on it, one a worker."""

    actors: ActorPool
    config: WorkersConfig
    note: Note = lambda text: None

    def workers(self, problem: Problem) -> Workers:
        return RayWorkers(self.actors, problem, self.config, self.note)


def how_many(config: WorkersConfig, device: torch.device, cores: int, gpus: int) -> tuple[int, float]:
    """Workers, and each one's share of a GPU. Raises WorkerError where the cluster has too few."""
    if device.type == "cuda" and not gpus:
        raise WorkerError("device is cuda, but the Ray cluster has no GPU; set device to cpu or join another cluster")
    most = cores // config.threads
    if config.count != "auto" and config.count > most:
        raise WorkerError(
            f"workers.count must be at most {most} (the cluster's {cores} cores, {config.threads} threads a worker), "
            f"not {config.count}; lower it, or set it to auto"
        )
    if not most:
        raise WorkerError(f"workers.threads must be at most the cluster's {cores} cores, not {config.threads}")
    if device.type != "cuda":
        return (most if config.count == "auto" else config.count), 0.0
    count = min(gpus, most) if config.count == "auto" else config.count
    return count, 1 / -(-count // gpus)  # the same share for all, so that no worker lies across two GPUs


@contextmanager
def _ray_cluster(config: WorkersConfig) -> Iterator[Any]:
    """Ray, connected. What was started here is stopped at the end; a cluster that was joined goes on."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise WorkerError(
            "workers.backend is ray, but Ray is not installed; pip install ray, or set workers.backend to serial"
        ) from None
    if ray.is_initialized():
        yield ray
        return
    if config.address is not None:
        check_answers(config.address)
    handler, terminated = signal.getsignal(signal.SIGTERM), False
    try:
        ray.init(address=config.address or "local", include_dashboard=False if config.address is None else None,
                 log_to_driver=False, logging_level=logging.ERROR)  # fmt: skip
    except SystemExit:  # what Ray's own handler of SIGTERM, which it puts there, makes of one that arrives on the way
        terminated = True
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = type_and_first_line(error)
        raise WorkerError(
            not_started(reason) if config.address is None else no_answer(config.address, reason)
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    try:
        if terminated:
            signal.raise_signal(signal.SIGTERM)
        yield ray
    finally:
        ray.shutdown()
