"""A problem some of whose candidates do harm to whoever scores them."""

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from evoprune.scoring.candidate import Outcome
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace


@dataclass(frozen=True)
class Poisoned:
    """In the place of a problem. deeds: by key, what scoring that candidate does, a method of `_Doer`.

    log: a file with a line for every time that it was done. once: it is done the first time alone.
    """

    problem: Problem
    log: Path
    deeds: dict[str, str] = field(default_factory=dict)
    once: bool = False

    @property
    def space(self) -> SearchSpace:
        return self.problem.space

    def failed(self, genome: Genome) -> Outcome:
        return self.problem.failed(genome)

    def scorer(self, device: torch.device) -> "_Doer":
        return _Doer(self, device)

    def tries(self, key: str) -> int:
        """How often a candidate has done its deed."""
        return self.log.read_text().split().count(key) if self.log.is_file() else 0


class _Doer:
    def __init__(self, poisoned: Poisoned, device: torch.device):
        self._poisoned = poisoned
        self._scorer = poisoned.problem.scorer(device)

    def set_conditions(self, conditions: Conditions) -> None:
        self._scorer.set_conditions(conditions)

    def score(self, genome: Genome) -> Outcome:
        key = self._poisoned.space.key(genome)
        deed = self._poisoned.deeds.get(key)
        if deed is not None and not (self._poisoned.once and self._poisoned.tries(key)):
            with self._poisoned.log.open("a") as log:
                log.write(f"{key}\n")
            getattr(self, deed)()
        return self._scorer.score(genome)

    def die(self) -> None:
        time.sleep(0.5)  # or the answer that was given before may not have left the process, and is lost with it
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self) -> None:
        time.sleep(3600)

    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def take_all_memory(self) -> None:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, -1))
        try:
            taken: list[Any] = [bytearray(2**24) for _ in range(2**10)]
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        raise AssertionError(len(taken))

    def divide_by_zero(self) -> None:
        raise ZeroDivisionError("division by zero")
