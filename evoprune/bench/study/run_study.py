"""A study: every method on every network at every target with every seed, all retrained alike; a row each.

Rows are written as they are found, and those that are there are not made again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pandas as pd
from torch import Tensor, nn

from evoprune.bench.study.methods import SMALL_DENSE, Bench, Method, choose, methods_of, searches_of
from evoprune.bench.study.starts import Start, last_retraining, starts_of
from evoprune.bench.study.study_config import StudyConfig, network_config
from evoprune.bench.study.study_tables import Cell, Choice, Tables, opened_tables, row_of
from evoprune.config.schema import Config, RetrainStart
from evoprune.data.load import load_data
from evoprune.networks.seeding import mixed_seed
from evoprune.networks.weights import load_weights
from evoprune.pipeline.configured import fresh_network
from evoprune.pipeline.posing import pose
from evoprune.pipeline.round_context import BASELINE_SEED
from evoprune.pipeline.stages import retraining_with
from evoprune.progress import Progress
from evoprune.record import files
from evoprune.space.cost import cost
from evoprune.space.plan import Genome
from evoprune.surgery.apply import compact
from evoprune.training.devices import resolve_device
from evoprune.training.evaluation import Evaluation, evaluate
from evoprune.training.fit import FitState, fit
from evoprune.training.threads import torch_threads
from evoprune.workers.protocol import WorkerPool, score
from evoprune.workers.retraining import Retraining
from evoprune.workers.workers import open_worker_pool


def run_study(study: StudyConfig, out: Path, progress: Progress) -> pd.DataFrame:
    """Completes a study's table.

    Args:
        study: the methods, networks, targets and seeds.
        out: file of the table; rows that it has are not made again. The choices are kept beside it.
        progress: receives the stages.

    Returns:
        The whole table.

    Raises:
        UserError: the study cannot be carried out, or another process works on the table.
    """
    methods = methods_of(study)
    with opened_tables(out) as tables:
        _complete(study, methods, tables, progress)
    return tables.frame


def _complete(study: StudyConfig, every: Sequence[Method], tables: Tables, progress: Progress) -> None:
    """Makes the rows that the tables lack."""
    without = tuple(method for method in every if method.kind != SMALL_DENSE)  # what is anew has nothing to make up
    for network in study.networks:
        plain = network_config(study, network)
        for compensation, seeds, methods in (
            ("gram", study.seeds, every),
            ("none", study.uncompensated_seeds, without),
        ):
            names = [method.name for method in methods]
            if set(product([network], study.targets, seeds, names, [compensation])) <= tables.done:
                continue
            config = _under(plain, compensation)
            progress.stage("study", f"{network}, compensation {compensation}")
            with open_worker_pool(config.workers, resolve_device(config.device)) as pool:
                here = _opened(study, network, config, pool, tables, progress)
                for seed in seeds:
                    for method in methods:
                        _begin(here, method, seed)
                    for alike in _retrained_alike(methods):
                        _finish(here, alike, seed)


@dataclass(frozen=True, eq=False)
class _Here:
    """One network under one compensation: what it is chosen and retrained with, and where it is written."""

    study: StudyConfig
    network: str
    bench: Bench
    baseline_mcr: float
    tables: Tables

    def cells(self, method: Method, seed: int) -> list[Cell]:
        compensation = self.bench.config.search.compensation
        return [(self.network, target, seed, method.name, compensation) for target in self.bench.targets]


def _under(config: Config, compensation: str) -> Config:
    """The config with this compensation, in scores and where retraining begins."""
    after = config.retrain.compensation if compensation == "gram" else "search"
    return config.model_copy(
        update={
            "search": config.search.model_copy(update={"compensation": compensation}),
            "retrain": config.retrain.model_copy(update={"compensation": after}),
        }
    )


def _opened(
    study: StudyConfig, network: str, config: Config, pool: WorkerPool, tables: Tables, progress: Progress
) -> _Here:
    problem, data, device = pose(config), load_data(config.data, config.seed), resolve_device(config.device)
    workers = pool.workers(problem)
    baseline_mcr = evaluate(problem.model, data.test, device).mcr
    problem.model.cpu()
    searches = {
        name: search.model_copy(update={"compensation": config.search.compensation})
        for name, search in searches_of(study, network).items()
    }
    bench = Bench(problem, workers, data, config, searches, study.targets, device, progress)
    return _Here(study, network, bench, baseline_mcr, tables)


def _begin(here: _Here, method: Method, seed: int) -> None:
    """What the method chooses with this seed, where that is not known yet; retrained where it is not only genomes."""
    known = here.tables.done if method.at_once else {choice.cell for choice in here.tables.choices}
    cells = [cell for cell in here.cells(method, seed) if cell not in known]
    if not cells:
        return
    here = replace(here, bench=replace(here.bench, targets=tuple(target for _, target, *_ in cells)))
    here.bench.progress.stage("choose", f"{method.name}, seed {seed}")
    if method.at_once:
        _train_to_the_end(here, method, seed, cells)
    else:
        here.tables.choose(list(_chosen(here, method, seed, cells)))


def _chosen(here: _Here, method: Method, seed: int, cells: Sequence[Cell]) -> Iterator[Choice]:
    problem, chosen = here.bench.problem, choose(here.bench, method, seed)
    outcomes = score(here.bench.workers, chosen.genomes, problem.first_conditions())
    whole = cost(problem.space, problem.space.full())
    for cell, genome, outcome in zip(cells, chosen.genomes, outcomes, strict=True):
        yield Choice(
            *cell,
            macs_ratio=round(cost(problem.space, genome).macs / whole.macs, 4),
            mcr_before=outcome.score.errors / outcome.score.images,
            scores=chosen.scores,
            seconds=round(chosen.seconds, 1),
            key=problem.space.key(genome),
            genome=genome.tobytes().hex(),
        )


def _train_to_the_end(here: _Here, method: Method, seed: int, cells: Sequence[Cell]) -> None:
    """Adds the rows, and what was chosen, of a method that trains while it chooses."""
    bench, steps = here.bench, here.study.steps
    starts = starts_of(bench, method, steps, seed)
    whole = cost(bench.problem.space, bench.problem.space.full())
    choices = [_choice_of(cell, start, start.left.macs / whole.macs) for cell, start in zip(cells, starts, strict=True)]
    bench.progress.stage("retrain", f"{method.name}, seed {seed}")
    genomes, states = [start.genome for start in starts], [start.state for start in starts]
    tested = _retrained(here, genomes, states, last_retraining(bench, method, steps, seed))
    here.tables.choose(choices)
    here.tables.add(
        [
            row_of(choice, one, here.baseline_mcr, start.left, whole)
            for choice, start, one in zip(choices, starts, tested, strict=True)
        ]
    )


def _choice_of(cell: Cell, start: Start, macs_ratio: float) -> Choice:
    return Choice(
        *cell,
        macs_ratio=round(macs_ratio, 4),
        mcr_before=start.mcr_before,
        scores=0,
        seconds=round(start.seconds, 1),
        key=start.key,
        genome=start.genome.tobytes().hex(),
    )


def _retrained_alike(methods: Sequence[Method]) -> list[list[Method]]:
    """The methods, in their order, by how their networks are retrained."""
    by_how: dict[tuple[RetrainStart, bool], list[Method]] = {}
    for method in methods:
        by_how.setdefault((method.start, method.taught), []).append(method)
    return list(by_how.values())


def _finish(here: _Here, methods: Sequence[Method], seed: int) -> None:
    """Retrains what these methods, which are retrained alike, chose and has no row yet; as many at once as workers.

    Those that are trained at once are about as large, so that nobody waits for the other.
    """
    bench, tables = here.bench, here.tables
    cells = {cell for method in methods for cell in here.cells(method, seed)} - tables.done
    left = sorted((choice for choice in tables.choices if choice.cell in cells), key=lambda choice: -choice.macs_ratio)
    whole = cost(bench.problem.space, bench.problem.space.full())
    retraining = _retraining(here, methods[0], seed) if left else None
    for begin in range(0, len(left), bench.workers.count):
        some = left[begin : begin + bench.workers.count]
        bench.progress.stage("retrain", ", ".join(f"{one.method} at {one.target:g}" for one in some))
        assert retraining is not None
        tested = _retrained(here, [one.genes for one in some], [None] * len(some), retraining)
        tables.add(
            [
                row_of(one, result, here.baseline_mcr, cost(bench.problem.space, one.genes), whole)
                for one, result in zip(some, tested, strict=True)
            ]
        )


def _retraining(here: _Here, method: Method, seed: int) -> Retraining:
    """How networks are retrained; those trained anew for the baseline's epochs besides, at its learning rate."""
    config, data, start = here.bench.config, here.bench.data, method.start
    distillation = config.retrain.distillation if method.taught else 0.0
    settings = config.retrain.model_copy(update={"start": start, "distillation": distillation})
    if start == "anew":
        epochs, rate = config.train.epochs + settings.epochs, config.train.learning_rate
        settings = settings.model_copy(update={"epochs": epochs, "learning_rate": rate})
    rewound = _early_weights(here) if start == "rewind_weights" else None
    return retraining_with(settings, config, data.train, seed, rewound)


def _early_weights(here: _Here) -> dict[str, Tensor]:
    """The network's weights before the last `retrain.epochs` epochs of the training that its config describes.

    That training is done once more up to there, for only its end is given; kept beside the table.
    """
    config, out, data = here.bench.config, here.tables.out, here.bench.data
    path = out.with_name(f"{out.stem}_{here.network}_epoch_{config.rewind_epoch}.safetensors")
    if not path.is_file():
        here.bench.progress.stage("rewind", f"{here.network}, {config.rewind_epoch} epochs")
        network = fresh_network(config, data.image_shape, data.classes)
        seed, device = mixed_seed(config.seed, BASELINE_SEED), here.bench.device
        with torch_threads(config.workers.threads):
            fit(network, data.train, config.train, seed, device, augment=config.data.augment, until=config.rewind_epoch)
        files.write_tensors(path, FitState.before(network).weights, {})
    return files.read_tensors(path)[0]


def _retrained(
    here: _Here, genomes: Sequence[Genome], states: Sequence[FitState | None], retraining: Retraining
) -> list[Evaluation]:
    """What is left by the genomes, retrained, makes of the test images."""
    bench = here.bench
    reached = bench.workers.retrain(genomes, states, retraining, lambda index, report, state: None)
    networks = (_network(bench, genome, state) for genome, state in zip(genomes, reached, strict=True))
    return [evaluate(network, bench.data.test, bench.device) for network in networks]


def _network(bench: Bench, genome: Genome, state: FitState) -> nn.Module:
    network = compact(bench.problem.model, bench.problem.space, genome)
    load_weights(network, state.weights, "retrained weights")
    return network.eval()
