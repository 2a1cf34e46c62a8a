"""Times of several calls, measured in turns, so that drift of the machine affects all alike."""

import logging
import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

ROUNDS = 9


@dataclass(frozen=True)
class Timing:
    """The time of one call in milliseconds.

    Attributes:
        median_ms: over rounds.
        iqr_ms: spread over rounds, from the first quartile to the third.
    """

    median_ms: float
    iqr_ms: float


def timings(calls: Mapping[str, Callable[[], object]], threads: int, seconds: float) -> dict[str, Timing]:
    """Times calls over several rounds.

    Args:
        calls: by name.
        threads: number of threads to compute with.
        seconds: least duration of each call's timing in a round.
    """
    # Its import logs at length that a compiler for GPUs is not needed.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    rounds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        timers = {name: Timer("call()", globals={"call": call}, num_threads=threads) for name, call in calls.items()}
        for _ in range(ROUNDS):
            for name, timer in timers.items():
                rounds[name].append(timer.blocked_autorange(min_run_time=seconds).median * 1e3)
    return {name: _timing(times) for name, times in rounds.items()}


def _timing(times: list[float]) -> Timing:
    first, median, third = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, third - first)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
