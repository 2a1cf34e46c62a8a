"""Who scores and retrains makes no difference: this process, Ray's actors, actors that are killed."""

import dataclasses
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
import torch
from torch import nn

from evoprune.config.schema import RetrainConfig, TrainConfig, WorkersConfig
from evoprune.data.splits import Split
from evoprune.discovery.discover import search_space
from evoprune.errors import TrainingError, WorkerError
from evoprune.networks.zoo import build_network
from evoprune.record.interrupts import Terminated, stoppable
from evoprune.scoring.candidate import Outcome
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.losses import Examples
from evoprune.scoring.problem import make_problem
from evoprune.scoring.scorer import Problem
from evoprune.surgery.apply import mask
from evoprune.training.fit import EpochReport, FitState, fit
from evoprune.workers import cluster
from evoprune.workers.protocol import score
from evoprune.workers.ray_workers import RayWorkers
from evoprune.workers.retraining import Retraining
from evoprune.workers.workers import RayPool, SerialPool, open_worker_pool, worker_count_and_gpu_share
from tests.scoring.problems import CPU, digits, genomes
from tests.shared_ray import SharedRay

GPU = torch.device("cuda")
UNCONDITIONAL = Conditions(np.arange(200))


# --- a cluster that is not there


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the shared Ray were not there."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.usefixtures("unconnected")
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_no_server_at_the_address(scheme: str) -> None:
    address = f"{scheme}127.0.0.1:{unused_port()}"
    with pytest.raises(WorkerError) as error, open_worker_pool(WorkersConfig(address=address), CPU):
        pass
    assert str(error.value) == (
        f"workers.address: no Ray cluster answers at {address} (Connection refused); "
        "start one with `ray start --head`, or set it to null"
    )


@pytest.mark.usefixtures("unconnected")
def test_another_server_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes connections and says nothing: Ray by itself would wait for minutes."""
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 1)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(WorkerError, match=r"no Ray cluster answers at .* within 1 seconds"):  # noqa: SIM117
            with open_worker_pool(WorkersConfig(address=address), CPU):
                pass


@pytest.mark.usefixtures("unconnected")
def test_sigterm_while_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray replaces the handler of SIGTERM on its way, by one that ends the process with an exit status of its own."""

    def init(**settings: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(Terminated), stoppable(), open_worker_pool(WorkersConfig(), CPU):
        pass


@pytest.mark.usefixtures("unconnected")
def test_a_ray_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: object) -> None:
        raise RuntimeError("Failed to start GCS.\n\nPlease check its log")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(WorkerError) as error, open_worker_pool(WorkersConfig(), CPU):
        pass
    assert str(error.value) == (
        "workers.backend: Ray does not start on this machine (RuntimeError: Failed to start GCS.); see that there is "
        "memory, and disk space for its logs below /tmp/ray, or set it to serial"
    )


# --- the number of workers


@pytest.mark.parametrize(
    ("options", "device", "cores", "gpus", "expected"),
    [
        ({}, CPU, 8, 0, (8, 0.0)),
        ({}, CPU, 8, 4, (8, 0.0)),
        ({"threads": 3}, CPU, 8, 0, (2, 0.0)),
        ({"count": 5}, CPU, 8, 0, (5, 0.0)),
        ({"count": 2, "threads": 4}, CPU, 8, 0, (2, 0.0)),
        ({}, GPU, 8, 2, (2, 1.0)),  # one a GPU
        ({}, GPU, 2, 8, (2, 1.0)),  # no more than cores
        ({"threads": 4}, GPU, 8, 4, (2, 1.0)),
        ({"count": 4}, GPU, 8, 2, (4, 0.5)),
        ({"count": 3}, GPU, 8, 2, (3, 0.5)),  # two on one GPU, one on the other: two thirds each would not fit
        ({"count": 1}, GPU, 8, 4, (1, 1.0)),
    ],
)
def test_worker_count_by_hand(
    options: dict[str, Any], device: torch.device, cores: int, gpus: int, expected: tuple[int, float]
) -> None:
    assert worker_count_and_gpu_share(WorkersConfig(**options), device, cores, gpus) == expected


@pytest.mark.parametrize(
    ("options", "device", "cores", "gpus", "message"),
    [
        (
            {"count": 9},
            CPU,
            8,
            0,
            r"workers.count must be at most 8 \(the cluster's 8 cores, 1 threads .* not 9; lower",
        ),
        (
            {"count": 3, "threads": 4},
            CPU,
            8,
            0,
            "workers.count must be at most 2 .* not 3; lower it, or set it to auto",
        ),
        ({"threads": 9}, CPU, 8, 0, "workers.threads must be at most the cluster's 8 cores, not 9"),
        ({}, GPU, 8, 0, "the Ray cluster has no GPU; set device to cpu"),
    ],
)
def test_more_than_the_cluster_has(
    options: dict[str, Any], device: torch.device, cores: int, gpus: int, message: str
) -> None:
    with pytest.raises(WorkerError, match=message):
        worker_count_and_gpu_share(WorkersConfig(**options), device, cores, gpus)


# --- the same answers


def part(split: Split, images: int) -> Split:
    """Evenly spaced images of a split, for it is sorted by labels."""
    chosen = torch.linspace(0, len(split) - 1, images).long()
    return Split(split.images.select(chosen), split.targets[chosen], split.mean, split.std)


@pytest.fixture(scope="module")
def posed() -> Problem:
    """A network trained for a moment."""
    data = digits()
    model = build_network("4C3-MP2-8C3-MP2-16FC-10", data.image_shape, 10, torch.Generator().manual_seed(0))
    fit(model, part(data.train, 1000), TrainConfig(epochs=2), seed=0, device=CPU)
    space = search_space(model, torch.zeros(1, *data.image_shape))
    images, labels = data.validation.tensors()
    return make_problem(
        model, space, data.calibration.tensors()[0], images, labels, tolerance=0.05, compensate=True, device=CPU
    )


@pytest.fixture(scope="module")
def retraining() -> Retraining:
    few = part(digits().train, 300)
    return Retraining(RetrainConfig(epochs=2, distillation=0.5), few, augment=("crop",), seed=7)


@pytest.fixture(scope="module")
def serial(posed: Problem) -> Any:
    return SerialPool(CPU, threads=1).workers(posed)


@pytest.fixture(scope="module")
def pool(shared_ray: SharedRay) -> Iterator[RayPool]:
    with shared_ray.pool(WorkersConfig(count=min(2, os.cpu_count() or 1))) as pool:
        yield pool


@pytest.fixture(scope="module")
def ray_workers(pool: RayPool, posed: Problem) -> Any:
    return pool.workers(posed)


def untimed(outcomes: list[Outcome]) -> list[Outcome]:
    return [Outcome(dataclasses.replace(found.score, eval_seconds=0.0), found.packed) for found in outcomes]


def same(one: list[FitState], other: list[FitState]) -> bool:
    """Bit for bit."""
    return len(one) == len(other) and all(
        a.epoch == b.epoch
        and a.tensors.keys() == b.tensors.keys()
        and all(torch.equal(tensor, b.tensors[name]) for name, tensor in a.tensors.items())
        for a, b in zip(one, other, strict=True)
    )


def nothing(*_: object) -> None:
    pass


def test_scores_come_in_the_order_of_the_genomes(serial: Any, ray_workers: RayWorkers, posed: Problem) -> None:
    asked = genomes(posed.space, 24)
    told: dict[str, list[int]] = {"serial": [], "ray": []}
    one = score(serial, asked, UNCONDITIONAL, told["serial"].append)
    two = score(ray_workers, asked, UNCONDITIONAL, told["ray"].append)
    assert untimed(one) == untimed(two)
    assert len({outcome.score.macs for outcome in one}) > 12
    assert {outcome.score.exact for outcome in one} == {True, False}
    assert told["serial"] == list(range(1, 25))
    assert told["ray"] == sorted(told["ray"])
    assert told["ray"][-1] == 24


def test_no_genomes_no_scores(serial: Any, ray_workers: RayWorkers) -> None:
    assert score(serial, [], UNCONDITIONAL) == score(ray_workers, [], UNCONDITIONAL) == []


def test_overlapping_submissions_come_back_complete(serial: Any, ray_workers: RayWorkers, posed: Problem) -> None:
    """Three are handed over before the first one is asked for; each under conditions of its own."""
    asked = genomes(posed.space, 24)
    under = [Conditions(np.roll(np.arange(200), shift)) for shift in (0, 50, 100)]
    for workers in (serial, ray_workers):
        tickets = [workers.submit(asked[8 * k : 8 * k + 8], conditions) for k, conditions in enumerate(under)]
        found = [workers.collect(ticket, nothing) for ticket in tickets]
        for k, conditions in enumerate(under):
            assert untimed(found[k]) == untimed(score(serial, asked[8 * k : 8 * k + 8], conditions))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_retraining_is_the_same_bit_for_bit(
    precision: Any, serial: Any, ray_workers: RayWorkers, posed: Problem, retraining: Retraining
) -> None:
    """Three networks on two workers; one of them goes on from after its first epoch, another one is done."""
    asked = genomes(posed.space, 3)
    config = RetrainConfig(epochs=2, distillation=0.5, precision=precision)
    retraining = dataclasses.replace(retraining, config=config)
    epochs: dict[str, list[tuple[int, int]]] = {"serial": [], "ray": []}
    states: dict[int, list[FitState]] = {0: [], 1: [], 2: []}

    def note(who: str) -> Any:
        def on_epoch(index: int, report: EpochReport, state: FitState) -> None:
            epochs[who].append((index, report.epoch))
            assert (report.epoch, report.epochs) == (state.epoch, 2)
            states[index].append(state)

        return on_epoch

    one = serial.retrain(asked, [None] * 3, retraining, note("serial"))
    halfway = [None, states[1][0], states[2][1]]
    two = ray_workers.retrain(asked, halfway, retraining, note("ray"))
    assert same(one, two)
    assert [state.epoch for state in one] == [2, 2, 2]
    assert epochs["serial"] == [(index, epoch) for index in range(3) for epoch in (1, 2)]
    assert sorted(epochs["ray"]) == [(0, 1), (0, 2), (1, 2)]


def test_without_epochs_networks_stay_as_they_were_scored(
    serial: Any, ray_workers: RayWorkers, posed: Problem, retraining: Retraining
) -> None:
    asked = genomes(posed.space, 2)
    none = dataclasses.replace(retraining, config=RetrainConfig(epochs=0))
    one, two = (workers.retrain(asked, [None, None], none, nothing) for workers in (serial, ray_workers))
    assert same(one, two)
    assert [state.epoch for state in one] == [0, 0]


def test_losses_are_the_cross_entropy_of_the_cut_networks(serial: Any, ray_workers: RayWorkers, posed: Problem) -> None:
    """They equal those of masked networks, come in the genomes' order, and are the same in other processes."""
    asked, examples = genomes(posed.space, 5), Examples(posed.images[:40], posed.targets[:40])
    losses = serial.losses(asked, examples)
    assert losses == ray_workers.losses(asked, examples)
    for genome, loss in zip(asked, losses, strict=True):
        with torch.no_grad():
            logits = mask(posed.model, posed.space, genome)(examples.images)
        assert loss == pytest.approx(float(nn.functional.cross_entropy(logits, examples.targets)), rel=1e-5)


def test_a_mistake_of_the_users_comes_through_as_itself(
    ray_workers: RayWorkers, posed: Problem, retraining: Retraining
) -> None:
    hot = dataclasses.replace(retraining, config=RetrainConfig(epochs=1, learning_rate=1000, weight_decay=100))
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step .* take a learning_rate below") as error:
        ray_workers.retrain(genomes(posed.space, 1), [None], hot, nothing)
    assert type(error.value) is TrainingError
    assert "\n" not in str(error.value)


def process_of(workers: RayWorkers, place: int) -> int:
    """The process of an actor."""
    pid: int = ray.get(workers._pool.actors[place].__ray_call__.remote(lambda _: os.getpid()))
    return pid


def test_killed_actors_make_no_difference(
    serial: Any, ray_workers: RayWorkers, posed: Problem, retraining: Retraining
) -> None:
    """One actor is killed while it scores, another one while it retrains."""
    doomed = list({process_of(ray_workers, place) for place in (0, -1)})  # of one core, one
    killed: list[int] = []

    def kill(*_: object) -> None:
        if doomed:
            killed.append(doomed.pop(0))
            os.kill(killed[-1], signal.SIGKILL)

    asked = genomes(posed.space, 24)
    scores = score(ray_workers, asked, UNCONDITIONAL, lambda done: kill() if not killed else None)
    assert untimed(scores) == untimed(score(serial, asked, UNCONDITIONAL, nothing))
    states = ray_workers.retrain(asked[:2], [None, None], retraining, kill)
    assert same(states, serial.retrain(asked[:2], [None, None], retraining, nothing))
    assert len(set(killed)) == min(2, ray_workers.count)


def test_another_problem_replaces_the_one_that_was_held(pool: RayPool, posed: Problem, ray_workers: RayWorkers) -> None:
    """Actors replace their problem by the one that is sent along."""
    strict = dataclasses.replace(posed, allowed_errors=0)
    asked = genomes(posed.space, 4)
    other = RayWorkers(pool.actors, strict, pool.config)
    before, changed, after = (
        score(workers, asked, UNCONDITIONAL, nothing) for workers in (ray_workers, other, ray_workers)
    )
    assert untimed(before) == untimed(after)
    assert untimed(changed) == untimed(score(SerialPool(CPU, 1).workers(strict), asked, UNCONDITIONAL, nothing))
    assert {outcome.score.feasible for outcome in changed} == {False}


def test_count_beyond_the_cluster(pool: RayPool) -> None:
    with pytest.raises(WorkerError, match=r"workers\.count must be at most \d+ .* not 1000; lower it"):  # noqa: SIM117
        with open_worker_pool(WorkersConfig(count=1000), CPU):
            pass


def test_serial_leaves_threads_as_they_were(posed: Problem) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    workers = SerialPool(CPU, threads=before + 1).workers(posed)
    score(workers, genomes(posed.space, 2), UNCONDITIONAL, lambda done: seen.append(torch.get_num_threads()))
    assert seen == [before + 1, before + 1]
    assert torch.get_num_threads() == before
