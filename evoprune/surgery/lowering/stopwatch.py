"""Durations of calls, measured in turns so that drift of the machine affects all calls equally."""

import time
from collections.abc import Callable, Sequence

ROUNDS = 7
SECONDS_A_TURN = 2e-3

Stopwatch = Callable[[Sequence[Callable[[], object]]], list[float]]
"""Measures calls. Returns the seconds that each one takes."""


def seconds_a_call(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds per call: the smallest mean of a turn over several rounds, which other processes disturb least."""
    times = [_repeats(call) for call in calls]
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for number, (call, repeats) in enumerate(zip(calls, times, strict=True)):
            best[number] = min(best[number], _mean_seconds(call, repeats))
    return best


def _repeats(call: Callable[[], object]) -> int:
    """Number of repeats of a call in a turn; it has been warmed up afterwards."""
    call()
    return max(1, int(SECONDS_A_TURN / max(_mean_seconds(call, 2), 1e-7)))


def _mean_seconds(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats
