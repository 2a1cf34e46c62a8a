"""A Ray that many tests use: its start takes longer than most of them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import ray
import torch

from evoprune.config.schema import WorkersConfig
from evoprune.workers.local_ray import local_ray
from evoprune.workers.workers import RayPool, open_worker_pool


class SharedRay:
    """Starts Ray when it is first needed, and again after it has been stopped."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def start(self) -> None:
        if not ray.is_initialized():
            self._open.enter_context(local_ray(ray))

    def stop(self) -> None:
        self._open.close()

    @contextmanager
    def pool(self, workers: WorkersConfig) -> Iterator[RayPool]:
        """Actors on it, until the context ends."""
        self.start()
        with open_worker_pool(workers, torch.device("cpu")) as pool:
            assert isinstance(pool, RayPool)
            yield pool
