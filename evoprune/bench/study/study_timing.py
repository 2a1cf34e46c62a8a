"""How many times as fast a study's networks are, measured apart from everything else: on a quiet machine."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from evoprune.bench.study.study_config import StudyConfig, network_config
from evoprune.bench.study.study_tables import Choice, Tables
from evoprune.data.load import load_data
from evoprune.latency.network_latency import latencies_ms, lowered
from evoprune.pipeline.posing import pose
from evoprune.progress import Progress
from evoprune.scoring.scorer import Problem
from evoprune.surgery.apply import compact
from evoprune.training.devices import resolve_device

AT_ONCE = 8
"""How many networks are timed in turns with the unpruned one; rows are written in between."""

UNPRUNED = "unpruned"


def time_study(study: StudyConfig, out: Path, progress: Progress) -> pd.DataFrame:
    """Fills in `real_speedup` where it lacks, one measurement for equal genomes: the whole network, one image.

    Both networks in the form in which they run fastest, in turns. Single weights that went make none faster: they are
    timed as the dense network that they are of. Raises UserError.
    """
    tables = Tables.read(out)
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
    return tables.frame


def _speedups(problem: Problem, choices: Mapping[str, Choice], image: Tensor) -> dict[str, float]:
    """How many times as long the unpruned network takes, by genome."""
    networks = {name: compact(problem.model, problem.space, choice.genes) for name, choice in choices.items()}
    networks = {UNPRUNED: problem.model, **networks}
    on_device = {name: network.to(image.device).eval() for name, network in networks.items()}
    times_ms = latencies_ms(lowered(on_device, {}, image), image)
    return {name: times_ms[UNPRUNED] / times_ms[name] for name in choices}
