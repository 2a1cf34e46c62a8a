"""Measurements of time that last a moment, because no test looks at times: in this process, and in one of its own.

`python -m tests.brief_measurements` is the `evoprune` command with such measurements.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from evoprune.latency import network_latency
from evoprune.scoring import batching
from evoprune.surgery.lowering import stopwatch


@contextmanager
def brief_measurements() -> Iterator[None]:
    """Sets the least durations of all measurements to a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_latency, "SECONDS_A_ROUND", 1e-3)
        patch.setattr(batching, "MEASURED_SECONDS", 1e-3)
        patch.setattr(stopwatch, "SECONDS_A_TURN", 1e-4)
        yield


if __name__ == "__main__":
    from evoprune.cli.main import main

    with brief_measurements():
        main()
