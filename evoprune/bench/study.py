"""A study: every method on every network at every target with every seed, all retrained alike; a row each.

Rows are written as they are found, and those that are there are not made again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from evoprune.bench.study_config import StudyConfig, network_config
from evoprune.bench.study_methods import Bench, check_methods, choose, searches_of
from evoprune.config import Config
from evoprune.errors import ConfigError
from evoprune.fitness.retraining import Retraining
from evoprune.fitness.scoring import Problem
from evoprune.fitness.workers import Crew, Workers, open_crew, score
from evoprune.nets.data import Data, load_data
from evoprune.nets.seeding import mixed_seed
from evoprune.nets.training import FitState, count_errors, resolve_device
from evoprune.nets.weights import load_weights
from evoprune.pipeline import pose
from evoprune.progress import Progress
from evoprune.record import files
from evoprune.space.plan import Genome
from evoprune.stages import RETRAIN_SEED
from evoprune.surgery.compaction import compact


@dataclass(frozen=True)
class StudyRow:
    """What a method made of a network.

    target: share of the whole cost that was asked for; macs_ratio: that was kept. compensation: gram or none, in
    scores and before retraining. mcr_before: on the validation set, as scored; mcr_test: after retraining. scores,
    seconds: of choosing, for all targets at once. key: the chosen phenotype's.
    """

    network: str
    target: float
    seed: int
    method: str
    compensation: str
    macs_ratio: float
    mcr_before: float
    mcr_test: float
    baseline_mcr_test: float
    scores: int
    seconds: float
    key: str


CELL = ["network", "target", "seed", "method", "compensation"]
"""What tells rows apart."""


@dataclass(frozen=True)
class Choice:
    """A row before its network is retrained. genome: as hexadecimal digits."""

    network: str
    target: float
    seed: int
    method: str
    compensation: str
    macs_ratio: float
    mcr_before: float
    scores: int
    seconds: float
    key: str
    genome: str
    anew: bool

    @property
    def cell(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in CELL)


def run_study(study: StudyConfig, out: Path, progress: Progress) -> pd.DataFrame:
    """The study's table, with whatever was missing of it in `out` (and what was chosen, beside it).

    Raises UserError.
    """
    check_methods(study.methods, study.variants)
    table, choices = _read(out, StudyRow), _read(choices_path(out), Choice)
    for name in study.networks:
        config = network_config(study, name)
        for compensation in ("gram", "none"):
            seeds = study.seeds if compensation == "gram" else study.uncompensated_seeds
            cells = set(product([name], study.targets, seeds, study.methods, [compensation]))
            if cells <= {tuple(row[column] for column in CELL) for row in table}:
                continue
            here = _Setting(study, _under(config, compensation), name, compensation, out, progress)
            with open_crew(config.workers, here.device) as crew:
                _complete(here, crew, seeds, table, choices)
    return pd.DataFrame(table, columns=[*StudyRow.__dataclass_fields__])


def choices_path(out: Path) -> Path:
    """Where what was chosen is kept, beside the table."""
    return out.with_name(f"{out.stem}_choices.csv")


@dataclass(frozen=True, eq=False)
class _Setting:
    """One network under one compensation."""

    study: StudyConfig
    config: Config
    network: str
    compensation: str
    out: Path
    progress: Progress

    @property
    def device(self) -> torch.device:
        return resolve_device(self.config.device)


def _under(config: Config, compensation: str) -> Config:
    """The config with this compensation, in scores and where retraining begins."""
    after = config.retrain.compensation if compensation == "gram" else "search"
    return config.model_copy(
        update={
            "search": config.search.model_copy(update={"compensation": compensation}),
            "retrain": config.retrain.model_copy(update={"compensation": after}),
        }
    )


def _complete(
    here: _Setting, crew: Crew, seeds: Sequence[int], table: list[dict[str, Any]], choices: list[dict[str, Any]]
) -> None:
    """Makes the missing rows of one network under one compensation; adds them to the table, there and in the file."""
    study, config = here.study, here.config
    here.progress.stage("study", f"{here.network}, compensation {here.compensation}")
    problem, data = pose(config), load_data(config.data, config.seed)
    workers = crew.workers(problem)
    baseline_mcr = count_errors(problem.model, data.test, here.device) / len(data.test)
    problem.model.cpu()
    searches = {
        name: search.model_copy(update={"compensation": here.compensation})
        for name, search in searches_of(study, here.network).items()
    }
    for seed in seeds:
        bench = Bench(problem, workers, data, searches, study.targets, here.device, here.progress)
        for method in study.methods:
            if not all(_has(choices, here, target, seed, method) for target in study.targets):
                here.progress.stage("choose", f"{method}, seed {seed}")
                choices += [asdict(choice) for choice in _chosen(here, bench, method, seed)]
                _write(choices_path(here.out), choices)
        done = {tuple(row[column] for column in CELL) for row in table}
        wanted = set(product([here.network], study.targets, [seed], study.methods, [here.compensation]))
        left = [choice for row in choices if (choice := Choice(**row)).cell in wanted - done]
        for anew in (False, True):
            alike = [choice for choice in left if choice.anew == anew]
            for some in (alike[start : start + workers.count] for start in range(0, len(alike), workers.count)):
                here.progress.stage("retrain", ", ".join(f"{one.method} at {one.target:g}" for one in some))
                mcrs = _retrained(here, problem, workers, data, some, seed)
                table += [asdict(_row(choice, mcr, baseline_mcr)) for choice, mcr in zip(some, mcrs, strict=True)]
                _write(here.out, table)


def _chosen(here: _Setting, bench: Bench, method: str, seed: int) -> list[Choice]:
    problem, space = bench.problem, bench.problem.space
    chosen = choose(bench, method, seed)
    outcomes = score(bench.workers, chosen.genomes, problem.first_conditions())
    whole = problem.cost_of(space.full())
    return [
        Choice(
            network=here.network,
            target=target,
            seed=seed,
            method=method,
            compensation=here.compensation,
            macs_ratio=round(problem.cost_of(genome) / whole, 4),
            mcr_before=outcome.score.errors / outcome.score.images,
            scores=chosen.scores,
            seconds=round(chosen.seconds, 1),
            key=space.key(genome),
            genome=genome.tobytes().hex(),
            anew=chosen.anew,
        )
        for target, genome, outcome in zip(bench.targets, chosen.genomes, outcomes, strict=True)
    ]


def _retrained(
    here: _Setting, problem: Problem, workers: Workers, data: Data, choices: Sequence[Choice], seed: int
) -> list[float]:
    """The test MCRs of what was chosen, retrained; what is trained anew has the baseline's epochs besides."""
    config = here.config
    settings = config.retrain
    if choices[0].anew:
        epochs = config.train.epochs + settings.epochs
        rate = config.train.learning_rate
        settings = settings.model_copy(update={"start": "anew", "epochs": epochs, "learning_rate": rate})
    retraining = Retraining(settings, data.train, config.data.augment, mixed_seed(seed, RETRAIN_SEED), config.train)
    genomes = [np.frombuffer(bytes.fromhex(choice.genome), dtype=np.uint8) for choice in choices]
    states = workers.retrain(genomes, [None] * len(genomes), retraining, lambda index, report, state: None)
    networks = (_network(problem, genome, state) for genome, state in zip(genomes, states, strict=True))
    return [count_errors(network, data.test, here.device) / len(data.test) for network in networks]


def _network(problem: Problem, genome: Genome, state: FitState) -> nn.Module:
    network = compact(problem.model, problem.space, genome)
    load_weights(network, state.weights, "retrained weights")
    return network.eval()


def _row(choice: Choice, mcr_test: float, baseline_mcr_test: float) -> StudyRow:
    kept = {name: value for name, value in asdict(choice).items() if name not in ("genome", "anew")}
    return StudyRow(**kept, mcr_test=mcr_test, baseline_mcr_test=baseline_mcr_test)


def _has(choices: Sequence[Mapping[str, Any]], here: _Setting, target: float, seed: int, method: str) -> bool:
    cell = (here.network, target, seed, method, here.compensation)
    return any(tuple(row[column] for column in CELL) == cell for row in choices)


def _read(path: Path, row: type[StudyRow] | type[Choice]) -> list[dict[str, Any]]:
    """The rows of a table; none where there is no file. Raises ConfigError where it is another table."""
    if not path.is_file():
        return []
    columns = list(row.__dataclass_fields__)
    text = ["network", "method", "compensation", "key", "genome"]
    table = pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False)
    if list(table.columns) != columns:
        raise ConfigError(f"{path} is no table of a study (columns {', '.join(columns)}); give another --out")
    return [{str(key): value for key, value in record.items()} for record in table.to_dict("records")]


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    files.write_text(path, pd.DataFrame(rows).to_csv(index=False))
