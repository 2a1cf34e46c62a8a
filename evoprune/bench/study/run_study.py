"""A study: every method on every network at every target with every seed, all retrained alike; a row each.

Rows are written as soon as they are known, and rows that a table has are not made again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from evoprune.bench.study.choosing import MethodContext, choose
from evoprune.bench.study.methods import SMALL_DENSE, Method, methods_of, searches_of
from evoprune.bench.study.starts import last_retraining, starts_of
from evoprune.bench.study.study_config import StudyConfig, network_config
from evoprune.bench.study.study_tables import Cell, Choice, Tables, opened_tables, row_of
from evoprune.config.choices import RetrainStart
from evoprune.config.schema import Config
from evoprune.data.load import load_data
from evoprune.data.splits import Split
from evoprune.networks.seeding import mixed_seed
from evoprune.networks.weights import load_weights
from evoprune.pipeline.configured import fresh_network
from evoprune.pipeline.own_answers import with_own_answers
from evoprune.pipeline.posing import pose
from evoprune.pipeline.round_context import BASELINE_SEED
from evoprune.progress import Progress
from evoprune.record import files
from evoprune.scoring.scorer import Problem
from evoprune.space.cost import Cost, cost
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
        for network in study.networks:
            for compensation, seeds in (("gram", study.seeds), ("none", study.uncompensated_seeds)):
                # A network that is trained from scratch has nothing to compensate for.
                compared = [one for one in methods if compensation == "gram" or one.kind != SMALL_DENSE]
                names = [method.name for method in compared]
                if set(product([network], study.targets, seeds, names, [compensation])) <= tables.done:
                    continue
                config = _with_compensation(network_config(study, network), compensation)
                progress.stage("study", f"{network}, compensation {compensation}")
                with open_worker_pool(config.workers, resolve_device(config.device)) as pool:
                    network_study = _opened(study, network, config, pool, tables, progress)
                    for seed in seeds:
                        network_study.compare(compared, seed)
    return tables.frame


def _with_compensation(config: Config, compensation: str) -> Config:
    """The config with this compensation, in scores and before retraining."""
    before_retraining = config.retrain.compensation if compensation == "gram" else "search"
    return config.model_copy(
        update={
            "search": config.search.model_copy(update={"compensation": compensation}),
            "retrain": config.retrain.model_copy(update={"compensation": before_retraining}),
        }
    )


def _opened(
    study: StudyConfig, network: str, config: Config, pool: WorkerPool, tables: Tables, progress: Progress
) -> "NetworkStudy":
    problem, device = pose(config), resolve_device(config.device)
    data = load_data(config.data, config.seed, problem.task)
    data = with_own_answers(data, problem.model, problem.task, device)
    workers = pool.workers(problem)
    baseline_mcr = evaluated(problem, problem.model, data.test, device).mcr
    problem.model.cpu()
    searches = {
        name: search.model_copy(update={"compensation": config.search.compensation})
        for name, search in searches_of(study, network).items()
    }
    context = MethodContext(problem, workers, data, config, searches, study.targets, study.steps, device, progress)
    return NetworkStudy(network, context, baseline_mcr, tables)


@dataclass(frozen=True, eq=False)
class NetworkStudy:
    """The part of a study on one network with one compensation.

    Attributes:
        network: its name in the study.
        context: input of the methods.
        baseline_mcr: MCR of the unpruned network on the test set.
        tables: tables of the study.
    """

    network: str
    context: MethodContext
    baseline_mcr: float
    tables: Tables

    def compare(self, methods: Sequence[Method], seed: int) -> None:
        """Adds the rows of these methods with one seed that the tables lack."""
        for method in methods:
            self._choose(method, seed)
        for alike in _retrained_alike(methods):
            self._retrain_chosen(alike, seed)

    def _cells(self, method: Method, seed: int) -> list[Cell]:
        compensation = self.context.config.search.compensation
        return [(self.network, target, seed, method.name, compensation) for target in self.context.targets]

    @property
    def _unpruned_cost(self) -> Cost:
        space = self.context.problem.space
        return cost(space, space.full())

    def _choose(self, method: Method, seed: int) -> None:
        """Adds the choices of a method that the tables lack; also their rows if it trains while it chooses."""
        done = self.tables.done if method.trains_while_choosing else {choice.cell for choice in self.tables.choices}
        cells = [cell for cell in self._cells(method, seed) if cell not in done]
        if not cells:
            return
        context = replace(self.context, targets=tuple(target for _, target, *_ in cells))
        context.progress.stage("choose", f"{method.name}, seed {seed}")
        if method.trains_while_choosing:
            self._choose_and_train(context, method, seed, cells)
        else:
            self._choose_genomes(context, method, seed, cells)

    def _choose_genomes(self, context: MethodContext, method: Method, seed: int, cells: Sequence[Cell]) -> None:
        problem, chosen = context.problem, choose(context, method, seed)
        outcomes = score(context.workers, chosen.genomes, problem.first_conditions())
        unpruned = self._unpruned_cost
        self.tables.choose(
            [
                Choice(
                    *cell,
                    macs_ratio=round(cost(problem.space, genome).macs / unpruned.macs, 4),
                    mcr_before=outcome.score.errors / outcome.score.images,
                    scores=chosen.scores,
                    seconds=round(chosen.seconds, 1),
                    key=problem.space.key(genome),
                    genome=genome.tobytes().hex(),
                )
                for cell, genome, outcome in zip(cells, chosen.genomes, outcomes, strict=True)
            ]
        )

    def _choose_and_train(self, context: MethodContext, method: Method, seed: int, cells: Sequence[Cell]) -> None:
        starts = starts_of(context, method, seed)
        unpruned = self._unpruned_cost
        choices = [
            Choice(
                *cell,
                macs_ratio=round(start.left.macs / unpruned.macs, 4),
                mcr_before=start.mcr_before,
                scores=0,
                seconds=round(start.seconds, 1),
                key=start.key,
                genome=start.genome.tobytes().hex(),
            )
            for cell, start in zip(cells, starts, strict=True)
        ]
        context.progress.stage("retrain", f"{method.name}, seed {seed}")
        genomes, states = [start.genome for start in starts], [start.state for start in starts]
        tested = retrain_and_test(context, genomes, states, last_retraining(context, method, seed))
        self.tables.choose(choices)
        self.tables.add(
            [
                row_of(choice, result, self.baseline_mcr, start.left, unpruned)
                for choice, start, result in zip(choices, starts, tested, strict=True)
            ]
        )

    def _retrain_chosen(self, methods: Sequence[Method], seed: int) -> None:
        """Retrains the choices of methods that are retrained alike and adds their rows; as many at once as workers.

        Networks that are retrained at once are of about the same size, so that no worker waits for another one.
        """
        context, tables = self.context, self.tables
        cells = {cell for method in methods for cell in self._cells(method, seed)} - tables.done
        left = sorted((one for one in tables.choices if one.cell in cells), key=lambda choice: -choice.macs_ratio)
        if not left:
            return
        retraining = self._retraining(methods[0], seed)
        for begin in range(0, len(left), context.workers.count):
            some = left[begin : begin + context.workers.count]
            context.progress.stage("retrain", ", ".join(f"{one.method} at {one.target:g}" for one in some))
            tested = retrain_and_test(context, [one.genes for one in some], [None] * len(some), retraining)
            tables.add(
                [
                    row_of(one, result, self.baseline_mcr, cost(context.problem.space, one.genes), self._unpruned_cost)
                    for one, result in zip(some, tested, strict=True)
                ]
            )

    def _retraining(self, method: Method, seed: int) -> Retraining:
        """The retraining of a method's networks.

        Networks that are trained anew train for the baseline's epochs besides, at its learning rate.
        """
        config = self.context.config
        distillation = config.retrain.distillation if method.distilled else 0.0
        settings = config.retrain.model_copy(update={"start": method.start, "distillation": distillation})
        if method.start == "anew":
            epochs, rate = config.train.epochs + settings.epochs, config.train.learning_rate
            settings = settings.model_copy(update={"epochs": epochs, "learning_rate": rate})
        retraining = self.context.retraining(settings, seed)
        return replace(retraining, rewound=self._early_weights()) if method.start == "rewind_weights" else retraining

    def _early_weights(self) -> dict[str, Tensor]:
        """The network's weights before the last `retrain.epochs` epochs of the training that its config describes.

        Only the end of that training is given, so it is repeated up to there; the weights are kept beside the table.
        """
        config, out, data = self.context.config, self.tables.out, self.context.data
        path = out.with_name(f"{out.stem}_{self.network}_epoch_{config.rewind_epoch}.safetensors")
        if not path.is_file():
            self.context.progress.stage("rewind", f"{self.network}, {config.rewind_epoch} epochs")
            network = fresh_network(config, data.image_shape, data.classes)
            with torch_threads(config.workers.threads):
                fit(
                    network,
                    data.train,
                    config.train,
                    mixed_seed(config.seed, BASELINE_SEED),
                    self.context.device,
                    augment=config.data.augment,
                    task=self.context.problem.task,
                    until=config.rewind_epoch,
                )
            files.write_tensors(path, FitState.before(network).weights, {})
        return files.read_tensors(path)[0]


def _retrained_alike(methods: Sequence[Method]) -> list[list[Method]]:
    """The methods, in their order, grouped by how their networks are retrained."""
    groups: dict[tuple[RetrainStart, bool], list[Method]] = {}
    for method in methods:
        groups.setdefault((method.start, method.distilled), []).append(method)
    return list(groups.values())


def retrain_and_test(
    context: MethodContext, genomes: Sequence[Genome], states: Sequence[FitState | None], retraining: Retraining
) -> list[Evaluation]:
    """Retrains networks, and evaluates them on the test set.

    Args:
        context: of the unpruned network.
        genomes: of the networks.
        states: where training goes on, None: from the unpruned network's weights.
        retraining: how they are retrained.
    """
    trained = context.workers.retrain(genomes, states, retraining, lambda index, report, state: None)
    networks = (_network(context, genome, state) for genome, state in zip(genomes, trained, strict=True))
    return [evaluated(context.problem, network, context.data.test, context.device) for network in networks]


def evaluated(problem: Problem, network: nn.Module, split: Split, device: torch.device) -> Evaluation:
    """A network's evaluation by the task and the metric of a problem."""
    return evaluate(network, split, device, task=problem.task, balanced=problem.weights is not None)


def _network(context: MethodContext, genome: Genome, state: FitState) -> nn.Module:
    network = compact(context.problem.model, context.problem.space, genome)
    load_weights(network, state.weights, "retrained weights")
    return network.eval()
