"""The actor: one worker of a cluster, which runs in a process of its own."""

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from evoprune.scoring.candidate import Outcome
from evoprune.scoring.losses import loss_of
from evoprune.space.plan import Genome
from evoprune.training.fit import EpochReport, FitState
from evoprune.workers.retraining import Retrainer


class Actor:
    """Scores and retrains. Problems and the like come as references, whose values are fetched when they change.

    Args:
        fetch: Returns the value of a reference. References come in lists of one, or Ray would fetch them itself.
        import_paths: Folders in which modules are found besides this process's own.
        threads: Number of threads of torch.
        device: Name of the device that it computes on.
    """

    def __init__(self, fetch: Callable[[Any], Any], import_paths: list[str], threads: int, device: str):
        sys.path[:] = [*(path for path in import_paths if path not in sys.path), *sys.path]
        torch.set_num_threads(threads)
        self._fetch_value = fetch
        self._device = torch.device(device)
        self._held: dict[str, tuple[Any, Any]] = {}  # by name: reference, and the object made from its value

    def prepare(self, problem: list[Any]) -> None:
        """Makes the problem's scorer, which takes longer than a score does."""
        self._scorer(problem)

    def score(self, problem: list[Any], conditions: list[Any], genomes: list[bytes]) -> list[Outcome]:
        """Scores genomes, given as bytes."""
        scorer = self._scorer(problem)
        value = self._fetch("conditions", conditions)
        self._hold("scorer's conditions", problem + conditions, lambda: scorer.set_conditions(value))
        try:
            return [scorer.score(_genome(data)) for data in genomes]
        except Exception:
            self._held.clear()  # the scorer's network may be in an unfinished state
            raise

    def epoch(
        self, problem: list[Any], retraining: list[Any], genome: bytes, state: FitState | None
    ) -> tuple[EpochReport | None, FitState]:
        """Trains a genome's network for one epoch. Without a state, only makes the network's start."""
        retrainer = self._hold(
            "retrainer",
            problem + retraining,
            lambda: Retrainer(self._fetch("problem", problem), self._fetch("retraining", retraining), self._device),
        )
        if state is None:
            return None, retrainer.start(_genome(genome))
        return retrainer.epoch(_genome(genome), state)

    def loss(self, problem: list[Any], examples: list[Any], genome: bytes) -> float:
        """The mean loss of a genome's network on examples."""
        return loss_of(
            self._fetch("problem", problem), _genome(genome), self._fetch("examples", examples), self._device
        )

    def _scorer(self, problem: list[Any]) -> Any:
        return self._hold("scorer", problem, lambda: self._fetch("problem", problem).scorer(self._device))

    def _fetch(self, name: str, reference: list[Any]) -> Any:
        return self._hold(name, reference, lambda: self._fetch_value(reference[0]))

    def _hold(self, name: str, references: list[Any], make: Callable[[], Any]) -> Any:
        if name not in self._held or self._held[name][0] != references:
            self._held[name] = (references, make())
        return self._held[name][1]


def import_paths() -> list[str]:
    """The folders in which this process finds modules, so that actors find the user's own modules, too."""
    return [os.getcwd(), *(path for path in sys.path if path)]


def _genome(data: bytes) -> Genome:
    return np.frombuffer(data, dtype=np.uint8)
