"""Candidates per second: our scoring, ours without each of its savings, and the usual ways, on the same candidates.

All are timed in one process, way after way in each round, so that drift of the machine affects all alike.
"""

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evoprune.bench.machine_speed import convolution_gflops, product_gflops
from evoprune.bench.population import Population, read_population, record_population
from evoprune.bench.references import BATCH_SIZE, Reference, masked_dense, torch_pruning
from evoprune.config.schema import Config
from evoprune.errors import ConfigError
from evoprune.pipeline.posing import pose
from evoprune.progress import Progress
from evoprune.record.files import write_text
from evoprune.scoring.conditions import Conditions
from evoprune.scoring.scorer import Problem
from evoprune.space.cost import cost
from evoprune.space.plan import Genome
from evoprune.space.search_space import SearchSpace
from evoprune.surgery.layer_statistics import gram_statistics
from evoprune.training.devices import resolve_device
from evoprune.training.threads import torch_threads
from evoprune.workers.protocol import score as score_all
from evoprune.workers.ray_workers import RayWorkers
from evoprune.workers.workers import RayPool, open_worker_pool

OURS, ONE_WORKER = "ours", "ours_one_worker"

ROUNDING_ERRORS = 2
"""Number of errors by which ways to score may differ, since rounding decides near ties."""


@dataclass(frozen=True)
class FitnessRow:
    """One way to score, over the recorded candidates.

    Attributes:
        method: name of the way to score.
        candidates_per_second: median over rounds.
        ours_over_this: ratio of the medians.
        agrees: whether feasibility is that of the masked dense network, and errors of feasible candidates are within
            `ROUNDING_ERRORS`.
        images: number of validation images.
        workers: number of workers.
        fastest: candidates per second of the fastest round.
        slowest: candidates per second of the slowest round.
        images_seen: mean over candidates.
        feasible: number of feasible candidates.
        gflops_per_core: of convolutions and linear layers, over the whole time.
        peak_share: that over the highest figure that one convolution reached.
    """

    method: str
    candidates_per_second: float
    ours_over_this: float
    agrees: bool
    images: int
    workers: int
    fastest: float
    slowest: float
    images_seen: float
    feasible: int
    gflops_per_core: float
    peak_share: float


@dataclass(frozen=True)
class Tally:
    """The result of one candidate.

    Attributes:
        errors: on the images seen.
        images_seen: their number.
        feasible: None if scoring stopped because a known candidate dominates it.
    """

    errors: float
    images_seen: int
    feasible: bool | None


ScoreAll = Callable[[Sequence[Genome]], list[Tally]]
"""Scores genomes."""


@dataclass(frozen=True, eq=False)
class _ScoringWay:
    """One way to score.

    Attributes:
        name: in the table.
        workers: number of workers.
        problem: with its execution and statistics.
        conditions: under which candidates are scored.
        score: the function.
        macs: MACs of a genome as they are computed.
    """

    name: str
    workers: int
    problem: Problem
    conditions: Conditions
    score: ScoreAll
    macs: Callable[[Genome], int]


def bench_fitness(
    config: Config, recorded: Path, generation: int, rounds: int, progress: Progress, report: Callable[[str], None]
) -> list[FitnessRow]:
    """Times every way to score on a generation of the config's search.

    Args:
        config: the search.
        recorded: file of the generation; if it does not exist, the search runs up to it and is recorded there.
        generation: its number.
        rounds: number of rounds in which every way is timed.
        progress: of the search.
        report: receives a line for each way and round.

    Raises:
        ConfigError: the workers are not Ray's, or the file is of another search.
    """
    if config.workers.backend != "ray":
        raise ConfigError(f"workers.backend must be ray for this benchmark, not {config.workers.backend}")
    problem = pose(config)
    if not recorded.is_file():
        record_population(recorded, config, generation, progress)
    population = read_population(recorded, config, problem.space)
    genomes = population.genomes
    report(
        f"{len(genomes)} candidates of generation {population.generation}, {len(problem.images)} images, "
        f"batches of {problem.execution.batch_size}"
    )
    report(f"shared first layers would save {shared_prefix_share(problem.space, genomes):.1%} of the MACs at most")
    with open_worker_pool(config.workers, resolve_device(config.device)) as pool:
        assert isinstance(pool, RayPool)
        return timed(problem, population, pool, rounds, report)


def timed(
    problem: Problem, population: Population, pool: RayPool, rounds: int, report: Callable[[str], None]
) -> list[FitnessRow]:
    """Times every way to score on the population."""
    genomes, methods = list(population.genomes), _methods(problem, population.conditions(), pool)
    seconds: dict[str, list[float]] = {method.name: [] for method in methods}
    found: dict[str, list[Tally]] = {}
    convolution = 0.0
    for number in range(1, rounds + 1):
        convolution, product = max(convolution, convolution_gflops()), product_gflops()
        report(
            f"round {number} of {rounds}: convolution {convolution:.0f}, matrix product {product:.0f} GFLOP/s a core"
        )
        for method in methods:
            method.score(genomes[: 2 * method.workers])  # every worker has the problem, and is warm
            started = time.perf_counter()
            found[method.name] = method.score(genomes)
            seconds[method.name].append(time.perf_counter() - started)
            report(f"  {method.name}: {len(genomes) / seconds[method.name][-1]:.2f} candidates a second")
    truths = {
        False: found["masked_dense"],
        True: _reference(masked_dense, methods[-1].problem)(genomes),
    }
    ours = statistics.median(seconds[OURS])
    return [
        _row(
            method,
            genomes,
            seconds[method.name],
            found[method.name],
            truths[method.problem.statistics is not None],
            ours,
            convolution,
        )
        for method in methods
    ]


def _methods(problem: Problem, conditions: Conditions, pool: RayPool) -> list[_ScoringWay]:
    """The usual ways, ours, ours without each saving, and at the end ours with compensation."""
    statistics = gram_statistics(problem.model, problem.space, problem.calibration)
    space, whole = problem.space, cost(problem.space, problem.space.full()).macs

    def cut(genome: Genome) -> int:
        return cost(space, genome).macs

    def dense(genome: Genome) -> int:
        return whole

    def ours(
        name: str, changed: dict[str, Any] | None = None, under: Conditions = conditions, compensated: bool = False
    ) -> _ScoringWay:
        execution = replace(problem.execution, **changed or {})
        posed = replace(problem, execution=execution, statistics=statistics if compensated else None)
        workers = RayWorkers(pool.actors, posed, pool.config, at_most=1 if name == ONE_WORKER else None)
        return _ScoringWay(
            name, workers.count, posed, under, _by_workers(workers, under), cut if execution.compacted else dense
        )

    plain = replace(problem, statistics=None)
    references = [
        _ScoringWay(name, os.cpu_count() or 1, plain, conditions, _reference(reference, plain), macs)
        for name, reference, macs in (("masked_dense", masked_dense, dense), ("torch_pruning", torch_pruning, cut))
    ]
    by_margin = replace(conditions, order=np.arange(len(conditions.order)))
    return [
        *references,
        ours(OURS),
        ours(ONE_WORKER),
        ours("ours_without_compaction", {"compacted": False}),
        ours("ours_without_fusion", {"fused": False}),
        ours("ours_without_channels_last", {"channels_last": False}),
        ours("ours_without_small_batches", {"batch_size": BATCH_SIZE}),
        ours("ours_without_early_stop", {"early_stop": False}),
        ours("ours_without_recent_errors", under=by_margin),
        ours("ours_without_known_front", under=replace(conditions, dominance_bounds=())),
        ours("ours_compensated", compensated=True),
        ours("ours_compensated_without_early_stop", {"early_stop": False}, compensated=True),
    ]


def _by_workers(workers: RayWorkers, conditions: Conditions) -> ScoreAll:
    def score(genomes: Sequence[Genome]) -> list[Tally]:
        scores = (outcome.score for outcome in score_all(workers, genomes, conditions))
        return [Tally(score.errors, score.images_seen, score.feasible) for score in scores]

    return score


def _reference(reference: Reference, problem: Problem) -> ScoreAll:
    """Scores one candidate after the other, on all cores."""

    def score(genomes: Sequence[Genome]) -> list[Tally]:
        with torch_threads(os.cpu_count() or 1):
            wrong = [reference(problem, genome) for genome in genomes]
        return [Tally(int(w.sum()), len(w), bool(w.sum() <= problem.allowed_errors)) for w in wrong]

    return score


def agree(found: Tally, truth: Tally, beaten_above: float, tolerated: float) -> bool:
    """Whether a result agrees with one on all images, but for rounding.

    Args:
        found: the result.
        truth: that on all images.
        beaten_above: errors of the best known candidate of no higher cost, or the errors allowed.
        tolerated: errors allowed.
    """
    if found.feasible is None:
        return truth.errors > beaten_above - ROUNDING_ERRORS
    if found.feasible != truth.feasible:
        return abs(truth.errors - tolerated) <= ROUNDING_ERRORS
    return not found.feasible or abs(found.errors - truth.errors) <= ROUNDING_ERRORS


def _row(
    method: _ScoringWay,
    genomes: Sequence[Genome],
    seconds: Sequence[float],
    found: Sequence[Tally],
    truth: Sequence[Tally],
    ours_seconds: float,
    peak: float,
) -> FitnessRow:
    problem, median = method.problem, statistics.median(seconds)
    tolerated = problem.allowed_errors
    prices = [problem.cost_of(genome) for genome in genomes]
    beaten_above = [min(tolerated, method.conditions.fitness_bound(price)) for price in prices]
    passes = sum(
        method.macs(genome) * (tally.images_seen + len(problem.calibration))
        for genome, tally in zip(genomes, found, strict=True)
    )
    gflops = 2 * passes / 1e9 / median / method.workers
    return FitnessRow(
        method=method.name,
        candidates_per_second=round(len(genomes) / median, 3),
        ours_over_this=round(median / ours_seconds, 2),
        agrees=all(agree(f, t, b, tolerated) for f, t, b in zip(found, truth, beaten_above, strict=True)),
        images=len(problem.images),
        workers=method.workers,
        fastest=round(len(genomes) / min(seconds), 3),
        slowest=round(len(genomes) / max(seconds), 3),
        images_seen=round(statistics.mean(tally.images_seen for tally in found), 1),
        feasible=sum(bool(tally.feasible) for tally in found),
        gflops_per_core=round(gflops, 1),
        peak_share=round(gflops / peak, 3),
    )


def shared_prefix_share(space: SearchSpace, genomes: Sequence[Genome]) -> float:
    """The share (0..1) of a population's MACs that reuse of shared first layers would save at most.

    Counts the layers up to which an earlier candidate of the population is the same network.
    """
    seen: set[bytes] = set()
    shared = total = 0
    for genome in genomes:
        phenotype, prefix = space.check(genome), hashlib.sha256()
        for layer in space.layers:
            for part in (
                *(phenotype.kept.get((layer.weight, dim)) for dim in (0, 1)),
                phenotype.kernels.get(layer.weight),
            ):
                prefix.update(b"whole" if part is None else part.tobytes())
            rows, columns = (len(phenotype.kept.get((layer.weight, dim), range(layer.shape[dim]))) for dim in (0, 1))
            macs = rows * columns * layer.taps * layer.positions
            total += macs
            shared += macs if prefix.digest() in seen else 0
            seen.add(prefix.digest())
    return shared / total if total else 0.0


def write_rows(path: Path, rows: Sequence[FitnessRow]) -> None:
    """Writes the table as CSV.

    Raises:
        RunFolderError: the file cannot be written.
    """
    write_text(path, pd.DataFrame([asdict(row) for row in rows]).to_csv(index=False))
