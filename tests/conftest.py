"""What all tests share."""

import os

# Read when NumPy and SciPy are loaded: more threads than cores make small matrix products many times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Iterator

import pytest
import torch

import evoprune as ep
from evoprune.latency import network_latency as latency
from evoprune.scoring import batching
from evoprune.surgery.lowering import stopwatch
from tests import tiny_runs
from tests.shared_ray import SharedRay


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny networks run fastest on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def brief_measurements() -> Iterator[None]:
    """No test looks at times, so none waits for good ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "SECONDS_A_ROUND", 1e-3)
        patch.setattr(batching, "MEASURED_SECONDS", 1e-3)
        patch.setattr(stopwatch, "SECONDS_A_TURN", 1e-4)
        yield


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[SharedRay]:
    """The one Ray of a test process, for tests that do it no harm."""
    shared = SharedRay()
    yield shared
    shared.stop()


@pytest.fixture
def no_ray(shared_ray: SharedRay) -> None:
    """Ends the shared Ray, for tests with a Ray of their own in this process, and tests that fork it."""
    shared_ray.stop()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    """A finished run of three generations, which is only read."""
    return tiny_runs.run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def masked_run(tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    """A finished run over maps, kernels and stride masks, which is only read."""
    masks = {"space.kernels": True, "space.strides": True, "space.kernel_block": 2, "search.tolerance": 0.4}
    return tiny_runs.run(tmp_path_factory.mktemp("runs") / "masked", masks)
