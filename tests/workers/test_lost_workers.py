"""Candidates that kill, hang or starve their worker: tried three times, set aside, and all others scored as ever."""

import dataclasses
import importlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import ray
import torch

from evoprune.config.schema import RetrainConfig, WorkersConfig
from evoprune.data.splits import Split
from evoprune.errors import WorkerError
from evoprune.scoring.candidate import Outcome
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.scorer import Problem
from evoprune.workers import actor_pool, failures
from evoprune.workers.failures import TRIES
from evoprune.workers.protocol import score
from evoprune.workers.ray_workers import RayWorkers
from evoprune.workers.retraining import Retraining
from evoprune.workers.workers import RayPool, SerialPool
from tests.scoring.problems import CPU, genomes, problem
from tests.shared_ray import SharedRay
from tests.workers.poisoned import Poisoned

IMAGES = 60
UNCONDITIONAL = Conditions(np.arange(IMAGES))


@pytest.fixture(scope="module")
def pool(shared_ray: SharedRay) -> Iterator[RayPool]:
    with shared_ray.pool(WorkersConfig(count=min(2, os.cpu_count() or 1))) as pool:
        yield pool


@pytest.fixture(scope="module")
def whole() -> Problem:
    return problem("plain", images=IMAGES)


def untimed(outcomes: list[Outcome]) -> list[Outcome]:
    return [Outcome(dataclasses.replace(found.score, eval_seconds=0.0), found.packed) for found in outcomes]


def expected(whole: Problem, asked: list[np.ndarray], *failed: int) -> list[Outcome]:
    found = score(SerialPool(CPU, 1).workers(whole), asked, UNCONDITIONAL)
    return [whole.failed(genome) if place in failed else found[place] for place, genome in enumerate(asked)]


@pytest.mark.parametrize(
    ("deed", "timeout_s", "reason"),
    [
        ("die", None, "its process or its machine ended"),
        ("hang", 1.5, "it took longer than 1.5 seconds"),
        ("take_all_memory", None, "MemoryError"),
        ("divide_by_zero", None, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_candidate_that_ends_its_worker_every_time(
    deed: str,
    timeout_s: float | None,
    reason: str,
    pool: RayPool,
    whole: Problem,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = genomes(whole.space, 8)
    key = whole.space.key(asked[5])
    poisoned = Poisoned(whole, tmp_path / "log", {key: deed})
    workers = RayWorkers(pool.actors, cast(Problem, poisoned), WorkersConfig(timeout_s=timeout_s))
    found = score(workers, asked, UNCONDITIONAL)
    assert untimed(found) == untimed(expected(whole, asked, 5))
    assert found[5].score.failed
    assert (found[5].score.errors, found[5].score.feasible, found[5].score.mcr) == (IMAGES, False, None)
    assert poisoned.tries(key) == TRIES
    messages = [message for name, _, message in caplog.record_tuples if name == failures.__name__]
    assert messages == [f"candidate {key} is set aside as failed after 3 tries ({reason})"]


def test_of_candidates_in_one_call_only_the_failing_one_is_set_aside(
    pool: RayPool, whole: Problem, tmp_path: Path
) -> None:
    """Workers get a hundred candidates three at a time; the other two of a call are scored."""
    asked = genomes(whole.space, 50 * pool.actors.size)
    key = whole.space.key(asked[31])
    poisoned = Poisoned(whole, tmp_path / "log", {key: "die"})
    found = score(RayWorkers(pool.actors, cast(Problem, poisoned), pool.config), asked, UNCONDITIONAL)
    assert untimed(found) == untimed(expected(whole, asked, 31))
    assert poisoned.tries(key) == TRIES


@pytest.mark.parametrize("deed", ["die", "stop"])
def test_a_candidate_that_ends_its_worker_once_is_scored_as_ever(
    deed: str, pool: RayPool, whole: Problem, tmp_path: Path
) -> None:
    asked = genomes(whole.space, 8)
    poisoned = Poisoned(whole, tmp_path / "log", {whole.space.key(asked[i]): deed for i in (0, 6)}, once=True)
    workers = RayWorkers(pool.actors, cast(Problem, poisoned), WorkersConfig(timeout_s=1.5))
    assert untimed(score(workers, asked, UNCONDITIONAL)) == untimed(expected(whole, asked))


def test_failures_of_every_candidate_end_the_run(pool: RayPool, whole: Problem, tmp_path: Path) -> None:
    asked = genomes(whole.space, 4)
    deeds = {whole.space.key(genome): "divide_by_zero" for genome in asked}
    poisoned = cast(Problem, Poisoned(whole, tmp_path / "log", deeds))
    for workers in (RayWorkers(pool.actors, poisoned, pool.config), SerialPool(CPU, 1).workers(poisoned)):
        with pytest.raises(WorkerError, match=r"none of the first 3 candidates can be scored \(ZeroDivisionError"):
            score(workers, asked, UNCONDITIONAL)


def test_without_ray_failing_candidates_are_set_aside_too(whole: Problem, tmp_path: Path) -> None:
    asked = genomes(whole.space, 4)
    poisoned = Poisoned(whole, tmp_path / "log", {whole.space.key(asked[2]): "take_all_memory"})
    found = score(SerialPool(CPU, 1).workers(cast(Problem, poisoned)), asked, UNCONDITIONAL)
    assert untimed(found) == untimed(expected(whole, asked, 2))


@pytest.mark.slow
def test_retraining_that_hangs_every_time_ends_the_run(pool: RayPool, whole: Problem) -> None:
    split: Any = Split(Endless(whole.images.float()), whole.targets, torch.zeros(1), torch.ones(1))
    workers = RayWorkers(pool.actors, whole, WorkersConfig(epoch_timeout_s=1.0))
    with pytest.raises(WorkerError, match=r"retraining ends its worker 3 times in turn \(it took longer than 1 sec"):
        workers.retrain(
            genomes(whole.space, 1),
            [None],
            Retraining(RetrainConfig(epochs=1, compensation="search"), split, (), 0),
            lambda *_: None,
        )


class Endless:
    """Images that take an hour to read."""

    def __init__(self, images: Any):
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def read(*_: object) -> Any:
            time.sleep(3600)

        return read


@pytest.fixture
def few_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start takes seconds."""
    monkeypatch.setattr(actor_pool, "FAILED_STARTS", 2)


@pytest.mark.usefixtures("few_starts")
def test_workers_that_never_start_end_the_run(pool: RayPool, whole: Problem) -> None:
    workers = RayWorkers(pool.actors, cast(Problem, Broken()), pool.config)
    with pytest.raises(WorkerError, match=r"workers end before they have started \(RuntimeError: no such device\)"):
        score(workers, genomes(whole.space, 2), UNCONDITIONAL)


class Broken:
    def scorer(self, device: Any) -> Any:
        raise RuntimeError("no such device")


@pytest.mark.usefixtures("few_starts")
@pytest.mark.slow
def test_workers_of_a_lost_machine_are_restarted_until_one_answers(
    pool: RayPool, whole: Problem, tmp_path: Path
) -> None:
    """More deaths in turn than may fail, in less time than a cluster takes to see that a machine has gone."""
    asked = genomes(whole.space, 2)
    dying = Dying(whole, tmp_path / "deaths", actor_pool.FAILED_STARTS + 1)
    assert untimed(score(RayWorkers(pool.actors, cast(Problem, dying), pool.config), asked, UNCONDITIONAL)) == untimed(
        expected(whole, asked)
    )
    assert len(dying.deaths.read_text()) >= actor_pool.FAILED_STARTS + 1


@pytest.mark.usefixtures("few_starts")
@pytest.mark.slow
def test_workers_that_always_die_at_their_start_end_the_run(
    pool: RayPool, whole: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_pool, "DEAD_STARTS_SECONDS", 0.2)
    workers = RayWorkers(pool.actors, cast(Problem, Dying(whole, tmp_path / "deaths", 1000)), pool.config)
    with pytest.raises(WorkerError, match=r"workers end before they have started \(its process or its machine ended\)"):
        score(workers, genomes(whole.space, 2), UNCONDITIONAL)


@pytest.mark.usefixtures("few_starts")
@pytest.mark.slow
def test_workers_without_a_package_name_it(pool: RayPool, whole: Problem) -> None:
    remote = ray.remote(Incomplete)
    lacking = actor_pool.ActorPool(pool.actors.connection, remote.remote, lambda: 1)
    workers = RayWorkers(lacking, whole, pool.config)
    with pytest.raises(WorkerError, match=r"have started \(ModuleNotFoundError: No module named 'not_there'\)"):
        score(workers, genomes(whole.space, 2), UNCONDITIONAL)


class Incomplete:
    """An actor on a machine where a library is missing."""

    def __init__(self) -> None:
        importlib.import_module("not_there")

    def prepare(self, problem: Any) -> None:
        raise AssertionError


class Dying:
    """A problem whose workers die when they begin with it, the first so many of them."""

    def __init__(self, problem: Problem, deaths: Path, count: int):
        self._problem = problem
        self.deaths = deaths
        self._count = count

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._problem, name)

    def scorer(self, device: Any) -> Any:
        with self.deaths.open("a+") as log:
            log.write("x")
        if len(self.deaths.read_text()) <= self._count:
            os._exit(1)
        return self._problem.scorer(device)
