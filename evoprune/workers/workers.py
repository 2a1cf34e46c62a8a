"""Opens the workers that a config asks for: this process alone, or Ray actors, one a core or a share of a GPU each.

Both kinds give equal results in equal order, because results are placed by the index of their genome.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from evoprune.config.schema import WorkersConfig
from evoprune.errors import WorkerError, type_and_first_line
from evoprune.scoring.scorer import Problem
from evoprune.workers.actor import Actor, import_paths
from evoprune.workers.actor_pool import ActorPool
from evoprune.workers.cluster import check_answers, no_answer
from evoprune.workers.local_ray import local_ray
from evoprune.workers.protocol import WorkerPool, Workers
from evoprune.workers.ray_connection import RayConnection, own_sigterm_handler
from evoprune.workers.ray_workers import RayWorkers
from evoprune.workers.serial_workers import SerialWorkers


@contextmanager
def open_worker_pool(config: WorkersConfig, device: torch.device) -> Iterator[WorkerPool]:
    """Opens the pool that a config asks for, for as long as the context lasts.

    Args:
        config: Section `workers` of a config.
        device: The device that each worker computes on.

    Raises:
        WorkerError: No cluster answers, it has fewer cores or GPUs than asked for, or it fails within the context.
    """
    if config.backend == "serial":
        yield SerialPool(device, config.threads)
        return
    with _ray_connection(config) as connection:
        actors = _start_actor_pool(connection, config, device)
        yield RayPool(actors, config)
        actors.close()


@dataclass(frozen=True)
class SerialPool:
    """This process alone, with the number of threads of one worker, so that sums are rounded as in other workers."""

    device: torch.device
    threads: int

    def workers(self, problem: Problem) -> Workers:
        """This process as the only worker on a problem."""
        return SerialWorkers(problem, self.device, self.threads)


@dataclass(frozen=True)
class RayPool:
    """A pool of actors on a Ray cluster, one a worker."""

    actors: ActorPool
    config: WorkersConfig

    def workers(self, problem: Problem) -> Workers:
        """The pool's actors as workers on a problem."""
        return RayWorkers(self.actors, problem, self.config)


def _start_actor_pool(connection: RayConnection, config: WorkersConfig, device: torch.device) -> ActorPool:
    """A pool with `workers.count` actors; with `auto`, as many as the cluster has room for at any time."""
    ray = connection.ray

    def cores_and_gpus() -> tuple[int, int]:
        resources = connection.call(ray.cluster_resources)
        return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))

    count, gpu_share = worker_count_and_gpu_share(config, device, *cores_and_gpus())
    # Ray itself restarts no actor: if the node of one leaves, its restart would wait for ever for another node.
    remote = ray.remote(Actor).options(num_cpus=config.threads, num_gpus=gpu_share, max_restarts=0)

    def start_actor() -> Any:
        return connection.call(remote.remote, ray.get, import_paths(), config.threads, device.type)

    def target_size() -> int:
        cores, gpus = cores_and_gpus()
        try:
            return worker_count_and_gpu_share(config, device, cores, gpus)[0]
        except WorkerError:  # nodes have left; the actors of a fixed count wait until others join
            return 1 if config.count == "auto" else count

    return ActorPool(connection, start_actor, target_size)


def worker_count_and_gpu_share(config: WorkersConfig, device: torch.device, cores: int, gpus: int) -> tuple[int, float]:
    """The number of workers, and the share of a GPU that each gets.

    Args:
        config: Section `workers` of a config.
        device: The device that each worker computes on.
        cores: Number of cores of the cluster.
        gpus: Number of GPUs of the cluster.

    Raises:
        WorkerError: The cluster has too few cores or no GPU.
    """
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
    return count, 1 / -(-count // gpus)  # an equal share for all, so that no worker is split over two GPUs


@contextmanager
def _ray_connection(config: WorkersConfig) -> Iterator[RayConnection]:
    """Ray, connected: as it is if the caller is connected, joined if there is an address, else started here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise WorkerError(
            "workers.backend is ray, but Ray is not installed; pip install ray, or set workers.backend to serial"
        ) from None
    if ray.is_initialized():
        connection = RayConnection(ray)
        try:
            yield connection
        finally:
            connection.close()
    elif config.address is None:
        with local_ray(ray) as local:
            yield local
    else:
        with _joined_cluster(ray, config.address) as joined:
            yield joined


@contextmanager
def _joined_cluster(ray: Any, address: str) -> Iterator[RayConnection]:
    check_answers(address)
    try:
        with own_sigterm_handler(ray):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise WorkerError(no_answer(address, type_and_first_line(error))) from error
    connection = RayConnection(ray)
    try:
        yield connection
    finally:
        connection.shutdown()
