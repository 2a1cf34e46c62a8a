"""Speedups of a study's networks, measured apart from everything else, on a quiet machine."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from evoprune.bench.study.study_config import StudyConfig, network_config
from evoprune.bench.study.study_tables import Choice, Tables, opened_tables
from evoprune.data.load import load_data
from evoprune.latency.network_latency import latencies_ms, lowered
from evoprune.pipeline.posing import pose
from evoprune.progress import Progress
from evoprune.scoring.scorer import Problem
from evoprune.surgery.apply import compact
from evoprune.training.devices import resolve_device

AT_ONCE = 8
"""Number of networks that are timed in turns with the unpruned one before their rows are written."""

UNPRUNED = "unpruned"


def time_study(study: StudyConfig, out: Path, progress: Progress) -> pd.DataFrame:
    """Fills in the missing `real_speedup` of a study's table: of the whole network for one image.

    Equal genomes are timed once. Each network runs in its fastest form, in turns with the unpruned one. Pruned single
    weights make a network no faster: it is timed as the dense network.

    Args:
        study: the study.
        out: file of its table.
        progress: receives the stages.

    Returns:
        The whole table.

    Raises:
        UserError: a network cannot be built, or another process works on the table.
    """
    with opened_tables(out) as tables:
        _fill_in(study, tables, progress)
    return tables.frame


def _fill_in(study: StudyConfig, tables: Tables, progress: Progress) -> None:
    """Times the networks of the rows that have no time yet."""
    genomes = {choice.cell: choice for choice in tables.choices}
    for network in study.networks:
        left = [row for row in tables.rows if row.network == network and pd.isna(row.real_speedup)]
        different = list({genomes[row.cell].genome: genomes[row.cell] for row in left}.values())
        if not different:
            continue
        config = network_config(study, network)
        problem, device = pose(config), resolve_device(config.device)
        image, _ = load_data(config.data, config.seed).validation.batch(torch.arange(1))
        for begin in range(0, len(different), AT_ONCE):
            some = {choice.genome: choice for choice in different[begin : begin + AT_ONCE]}
            progress.stage("time", f"{network}, {begin + len(some)} of {len(different)} networks")
            speedups = _speedups(problem, some, image.to(device))
            timed = [row for row in left if genomes[row.cell].genome in some]
            tables.add([replace(row, real_speedup=round(speedups[genomes[row.cell].genome], 3)) for row in timed])


def _speedups(problem: Problem, choices: Mapping[str, Choice], image: Tensor) -> dict[str, float]:
    """Speedups by genome: the unpruned network's time over the pruned one's."""
    networks = {name: compact(problem.model, problem.space, choice.genes) for name, choice in choices.items()}
    networks = {UNPRUNED: problem.model, **networks}
    on_device = {name: network.to(image.device).eval() for name, network in networks.items()}
    times_ms = latencies_ms(lowered(on_device, {}, image), image)
    return {name: times_ms[UNPRUNED] / times_ms[name] for name in choices}
