"""The start of a search: seconds of each step before the first candidate is scored, for networks of several sizes."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evoprune.bench.space_libraries import LIBRARIES
from evoprune.bench.spaces import peak_gib
from evoprune.config.schema import SpaceConfig, WorkersConfig
from evoprune.criteria.criterion import CriterionContext
from evoprune.criteria.preferences import preferences_of
from evoprune.discovery.discover import discover
from evoprune.networks.seeding import global_seed
from evoprune.record.csv_tables import read_csv, write_csv
from evoprune.record.lock import locked_table
from evoprune.scoring.batching import gram_bytes, measured_execution
from evoprune.scoring.problem import make_problem
from evoprune.scoring.scorer import Scorer

NETWORKS: tuple[tuple[str, int, int], ...] = (
    ("resnet18", 32, 512),
    ("vgg11_bn", 32, 512),
    ("densenet121", 64, 256),
    ("efficientnet_b0", 224, 256),
    ("mobilenet_v2", 224, 256),
    ("resnet50", 224, 256),
)
"""Networks of torchvision, with the size of their images in pixels, and the number of calibration images."""

VALIDATION = 1000
"""Number of validation images."""


@dataclass(frozen=True)
class StartRow:
    """The start of a search over one network, with default settings.

    Attributes:
        name: torchvision's name of the network.
        pixels: height and width of the images.
        calibration: number of calibration images.
        threads: number of threads of the process.
        space_seconds: duration of discovery and proof.
        problem_seconds: of the statistics for compensation, and of the unpruned network's outputs.
        batch_size_seconds: of the measurement of batch sizes.
        criterion_seconds: of the ranking of feature maps.
        first_score_seconds: of a scorer's set-up and the first score.
        seconds: of all of it.
        peak_gib: largest memory of the process, all libraries included, in GiB.
    """

    name: str
    pixels: int
    calibration: int
    threads: int
    space_seconds: float
    problem_seconds: float
    batch_size_seconds: float
    criterion_seconds: float
    first_score_seconds: float
    seconds: float
    peak_gib: float


def bench_start(out: Path, names: Sequence[str] | None, report: Callable[[str], None]) -> None:
    """Writes a CSV row for each network as soon as it is known. Each network has a process of its own.

    Args:
        out: file of the table; networks that it has are skipped.
        names: some of `NETWORKS`; None: all.
        report: receives a line for each network.

    Raises:
        RunFolderError: another process works on the table.
        ConfigError: the file is another table, or is damaged.
    """
    with locked_table(out):
        rows: list[Mapping[str, Any]] = [*read_csv(out, [field.name for field in fields(StartRow)])]
        for name, pixels, calibration in NETWORKS:
            if (names and name not in names) or any(row["name"] == name for row in rows):
                continue
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                row = pool.submit(start_row, name, pixels, calibration, VALIDATION).result()
            rows.append(asdict(row))
            write_csv(out, rows)
            report(f"{name} at {pixels} pixels: first score after {row.seconds} s, {row.peak_gib} GiB")


def start_row(name: str, pixels: int, calibration: int, validation: int) -> StartRow:
    """The row of one network, with random weights and random images. The peak memory is that of this process."""
    with global_seed(0):
        network, _ = LIBRARIES["torchvision"].build(name)
        images = torch.randn(calibration + validation, 3, pixels, pixels)
        labels = torch.randint(1000, (calibration + validation,))
    device, workers, watch = torch.device("cpu"), WorkersConfig(), _Stopwatch()
    space = discover(network.eval(), images[:1], SpaceConfig())
    space_seconds = watch.lap()
    calibration_images, validation_images = images.split([calibration, validation])
    problem = make_problem(
        network,
        space,
        calibration_images,
        validation_images,
        labels[calibration:],
        tolerance=0.02,
        compensate=True,
        device=device,
        gram_bytes=gram_bytes(workers),
    )
    problem_seconds = watch.lap()
    problem = replace(problem, execution=measured_execution(problem, device, workers))
    batch_size_seconds = watch.lap()
    context = CriterionContext(
        model=problem.model,
        space=space,
        images=calibration_images,
        targets=labels[:calibration],
        rng=np.random.default_rng(0),
        losses=lambda genomes: [0.0] * len(genomes),
        device=device,
        statistics=problem.statistics,
        task=problem.task,
    )
    preferences_of("auto", context)
    criterion_seconds = watch.lap()
    Scorer(problem, device).score(space.random(np.random.default_rng(0), keep=0.5))
    first_score_seconds = watch.lap()
    return StartRow(
        name=name,
        pixels=pixels,
        calibration=calibration,
        threads=torch.get_num_threads(),
        space_seconds=space_seconds,
        problem_seconds=problem_seconds,
        batch_size_seconds=batch_size_seconds,
        criterion_seconds=criterion_seconds,
        first_score_seconds=first_score_seconds,
        seconds=watch.total(),
        peak_gib=peak_gib(),
    )


class _Stopwatch:
    """Seconds since its start, and since the last lap, rounded to tenths."""

    def __init__(self) -> None:
        self._started = self._lap = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self._lap = self._lap, time.perf_counter()
        return round(self._lap - before, 1)

    def total(self) -> float:
        """Seconds since the start."""
        return round(time.perf_counter() - self._started, 1)
