"""The sequence of a run's stages, from whatever state the run folder has to the finished tables."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from evoprune.config.loading import load_config
from evoprune.config.schema import Config
from evoprune.data.load import Data
from evoprune.discovery.discover import discover
from evoprune.pipeline import stages
from evoprune.pipeline.configured import probe_image
from evoprune.pipeline.identity import Identity
from evoprune.pipeline.input_checks import warn_of_useless_baseline
from evoprune.pipeline.own_answers import with_own_answers
from evoprune.pipeline.posing import pose_problem
from evoprune.pipeline.resuming import check_same_search, go_on_in
from evoprune.pipeline.round_context import Reference, RoundContext
from evoprune.pipeline.testing import test
from evoprune.progress import Progress
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.housekeeping import clear
from evoprune.record.lock import locked
from evoprune.record.runs import Run
from evoprune.record.tensorboard import with_scalars
from evoprune.space.search_space import SearchSpace
from evoprune.tasks.judging import task_call
from evoprune.tasks.task import Task
from evoprune.training.fit import FitState
from evoprune.workers.protocol import WorkerPool
from evoprune.workers.workers import open_worker_pool

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Experiment:
    """The whole input of a run, ready to be carried out.

    rounds: the config's rounds, at least one. network: freshly initialised or trained; stages change it.
    weights: of the trained network; None: it is trained. space: of the first round. identity: of weights and data.
    task: judges outputs.
    """

    config: Config
    rounds: tuple[Config, ...]
    data: Data
    network: nn.Module
    weights: Mapping[str, Tensor] | None
    space: SearchSpace
    device: torch.device
    identity: Identity
    task: Task


def carry_out(
    experiment: Experiment,
    folder: RunFolder,
    progress: Progress,
    *,
    fresh: bool = False,
    pool: WorkerPool | None = None,
) -> None:
    """Runs all rounds of an experiment in a run folder, or what is left of them, and keeps the folder locked.

    Args:
        fresh: a run that is in the folder is removed first.
        pool: the workers; None: those that the config asks for, for this run alone.

    Raises:
        UserError: as `run`.
    """
    config = experiment.config
    opened = open_worker_pool(config.workers, experiment.device) if pool is None else nullcontext(pool)
    with opened as workers, locked(folder) as held:
        if fresh and held.holds_run():
            clear(held)
        go_on_in(held, config, experiment.rounds, experiment.identity)
        with with_scalars(progress, config, held) as with_tensorboard:
            _carry_out_rounds(experiment, held, with_tensorboard, workers)


def write_report(run: Run, progress: Progress) -> None:
    """Draws the pictures and the report of a finished run, if its config asks for them."""
    if run.config.record.report:
        from evoprune.report import write  # importing it takes a second, which runs without a report do not pay

        progress.stage("report", str(RunFolder(run.root).report))
        write.write_report(run)


def _carry_out_rounds(experiment: Experiment, folder: RunFolder, progress: Progress, pool: WorkerPool) -> None:
    """Every round starts from the network that the one before handed on; a finished round stays as it is."""
    rounds, weights = experiment.rounds, experiment.weights
    context = RoundContext(
        experiment.config,
        folder,
        experiment.data,
        experiment.network,
        experiment.space,
        experiment.device,
        progress,
        experiment.task,
    )
    for number, config in enumerate(rounds, 1):
        context = replace(context, config=config, folder=folder.of_round(number, len(rounds)))
        if len(rounds) > 1:
            progress.stage("round", f"{number} of {len(rounds)}")
        finished = context.folder.survivors_table.is_file()
        if finished:
            check_same_search(load_config(context.folder.config), config)
        elif number < len(rounds):
            go_on_in(context.folder, config, (config,))
        if number > 1 and not finished:
            space = discover(context.network, probe_image(context.data.image_shape), config.space)
            context, weights = replace(context, space=space), FitState.before(context.network).weights
        model = stages.baseline(context, weights)
        if number == 1:
            context = _with_targets(context, model)
        if not finished:
            _carry_out_stages(context, model, pool)
        if number < len(rounds):
            context = _next_context(context, model)


def _with_targets(context: RoundContext, model: nn.Module) -> RoundContext:
    """The context with targets for all data, by the unpruned network if there are none, and with the fitted task."""
    data = with_own_answers(context.data, model, context.task, context.device)
    with task_call(context.task, "fitted"):
        task = context.task.fitted(data.validation.targets)
    return replace(context, data=data, task=task)


def _carry_out_stages(context: RoundContext, model: nn.Module, pool: WorkerPool) -> None:
    """The stages of a round, from the trained baseline to the survivors' table."""
    files.write_json(context.folder.space, context.space.to_dict())
    problem = pose_problem(context, model)
    if context.reference is None:
        warn_of_useless_baseline(problem)
    workers = pool.workers(problem)
    survivors = stages.search(context, problem, workers)
    weights = stages.retrain(context, workers, survivors)
    test(context, model, survivors, weights)


def _next_context(context: RoundContext, model: nn.Module) -> RoundContext:
    """The context with the network that its finished round hands on, and the first round's as the reference."""
    finished = Run(context.folder.root)
    if finished.survivors.empty:
        logger.warning("no candidate stayed within search.tolerance: the next round starts from the same network")
    reference = context.reference or Reference(model, context.space, context.folder)
    return replace(context, network=finished.hand_on(model).cpu(), reference=reference)
