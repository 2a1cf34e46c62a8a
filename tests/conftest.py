"""What all tests share."""

import os

# Read when NumPy and SciPy are loaded: more threads than cores make small matrix products many times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import evoprune as ep
from tests import tiny_runs
from tests.brief_measurements import brief_measurements
from tests.shared_ray import SharedRay

LONGEST_FILES = (
    "pipeline/test_resuming.py",
    "pipeline/test_faults.py",
    "workers/test_local_ray.py",
    "workers/test_lost_workers.py",
    "test_readme.py",
    "cli/test_streams.py",
    "scoring/test_scorer.py",
    "report/test_browser.py",
    "pipeline/test_rounds.py",
    "pipeline/test_run.py",
    "workers/test_workers.py",
    "record/test_store_faults.py",
    "report/test_analysis_notebook.py",
)
"""They begin first, or processes that share the tests file by file would wait for the last one at the end."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The number of test processes: one more than cores, because many tests wait for Ray or another process."""
    return (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    """Has pytest-xdist hand out files in the order in which they are collected, not by their number of tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of `LONGEST_FILES` first, in that order; the order of all others stays."""
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny networks run fastest on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def no_long_measurements() -> Iterator[None]:
    """No test looks at times, so none waits for good ones."""
    with brief_measurements():
        yield


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_disks() -> Iterator[None]:
    """No test cuts the power, so none waits until files are on the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
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
