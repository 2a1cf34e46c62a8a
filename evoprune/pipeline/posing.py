"""From a baseline to the problem that candidates are scored on, and to the algorithm that solves it."""

import json
import logging
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.config.schema import Config, SearchConfig
from evoprune.costs.cost_model import CostModel
from evoprune.costs.costs_by_name import find_cost
from evoprune.criteria.criterion import CriterionContext
from evoprune.criteria.preferences import preferences_of
from evoprune.data.load import Data, load_data
from evoprune.data.splits import Split
from evoprune.discovery.discover import discover
from evoprune.errors import ConfigError
from evoprune.pipeline.configured import configured_task, fresh_network, given_weights, probe_image
from evoprune.pipeline.own_answers import with_own_answers
from evoprune.pipeline.round_context import CRITERION_SEED, SEARCH_SEED, Reference, RoundContext
from evoprune.plugins.guard import is_own
from evoprune.progress import Progress
from evoprune.record import files
from evoprune.record.costs import load_measured, write_latency, write_own_cost
from evoprune.record.costs import whole_cost as recorded_cost
from evoprune.record.folder import RunFolder
from evoprune.record.json_files import read_execution
from evoprune.scoring.batching import gram_bytes, measured_execution
from evoprune.scoring.losses import Examples
from evoprune.scoring.problem import errors_as_scored, make_problem, outputs_as_scored
from evoprune.scoring.scorer import Problem
from evoprune.search.algorithm import Algorithm
from evoprune.search.algorithms import make_algorithm
from evoprune.space.search_space import SearchSpace
from evoprune.surgery.layer_statistics import uncompensated
from evoprune.tasks.task import Task
from evoprune.training.devices import resolve_device
from evoprune.workers.protocol import Workers

MOST_REFERENCE_BYTES = 2**31
"""Outputs of the unpruned network on all validation images are kept up to this size, if the search can do without."""

logger = logging.getLogger(__name__)


def pose(config: Config) -> Problem:
    """The problem that a config's search solves, without a run folder: nothing is read from one or written to one.

    Args:
        config: names trained weights, and has no rounds.

    Raises:
        ConfigError: if the config names no trained weights, or has rounds.
        UserError: as `run`.
    """
    if not config.model.is_trained or config.search.in_rounds:
        raise ConfigError(
            "model.weights must name trained weights here, with model.head keep and without search.rounds and "
            "search.steps, because nothing is trained; give such a config, or use `evoprune run`"
        )
    device = resolve_device(config.device)
    task = configured_task(config)
    data = load_data(config.data, config.seed, task)
    network = fresh_network(config, data.image_shape, data.classes)
    given_weights(config, network, data.image_shape)
    space = discover(network, probe_image(data.image_shape), config.space)
    model = network.eval()
    data = with_own_answers(data, model, task, device)
    problem = problem_of(config, data, model, space, device, task.fitted(data.validation.targets))
    cost = find_cost(config.search.cost)
    _measure(cost, model, space, data)
    return replace(problem, cost=cost, execution=measured_execution(problem, device, config.workers))


def pose_problem(context: RoundContext, model: nn.Module) -> Problem:
    """The problem of a round. Measured times and batch sizes are kept in the run folder, and read again on resuming."""
    config, folder, data = context.config, context.folder, context.data
    context.progress.stage("statistics", f"{len(data.calibration)} images through the unpruned network")
    problem = problem_of(config, data, model, context.space, context.device, context.task, context.reference)
    cost, measured = _ready_cost(config.search.cost, folder, model, context.space, data, context.progress)
    problem = replace(problem, cost=cost)
    if is_own(config.search.cost) and not folder.cost.is_file():
        write_own_cost(folder, context.space, config.search.cost, cost, whole_cost(context, problem), measured)
    if not folder.execution.is_file():
        files.write_json(folder.execution, asdict(measured_execution(problem, context.device, config.workers)))
    return replace(problem, execution=read_execution(folder))


def problem_of(
    config: Config,
    data: Data,
    model: nn.Module,
    space: SearchSpace,
    device: torch.device,
    task: Task | None = None,
    reference: Reference | None = None,
) -> Problem:
    """The problem of a baseline, before latency and batch sizes are measured.

    Args:
        task: judges outputs; None: classification.
        reference: the unpruned network whose errors the tolerance is relative to; None: the baseline itself.
    """
    calibration, _ = data.calibration.tensors()
    images, targets = data.validation.tensors()
    if task is not None and not task.reads_targets:
        # otherwise, the share of errors that recalibration makes would be added to what is allowed
        whole, parts = (model, space) if reference is None else (reference.model, reference.space)
        targets = task.answers(outputs_as_scored(whole, parts, calibration, images, device))
    baseline_errors, balanced = None, config.search.metric == "balanced"
    if reference is not None:
        baseline_errors = errors_as_scored(
            reference.model, reference.space, calibration, images, targets, device, task, balanced
        )
    compensate = config.search.compensation == "gram"
    problem = make_problem(
        model,
        space,
        calibration,
        images,
        targets,
        tolerance=config.search.allowed_rise,
        compensate=compensate,
        device=device,
        gram_bytes=gram_bytes(config.workers),
        baseline_errors=baseline_errors,
        task=task,
        balanced=balanced,
        reference_bytes=None if config.search.judged_by == "divergence" else MOST_REFERENCE_BYTES,
    )
    if compensate and (left_out := uncompensated(space, problem.statistics or {})):
        logger.warning(
            "layers left without compensation (of a kind that has none, or beyond workers.gram_memory): %s",
            ", ".join(left_out),
        )
    return problem


def _ready_cost(
    name: str, folder: RunFolder, model: nn.Module, space: SearchSpace, data: Data, progress: Progress
) -> tuple[CostModel, Any]:
    """The cost of a name, with what is measured for it: what the run folder has of this search space, or new.

    What is stored is used even on another machine, so that a resumed search judges candidates as before.

    Returns:
        The cost, and what was measured now; None for nothing.
    """
    cost = find_cost(name)
    if load_measured(cost, folder, space, name):
        return cost, None
    progress.stage("cost", f"{cost.label}, measured on {len(space.layers)} layers")
    measured = _measure(cost, model, space, data)
    if not is_own(name):
        write_latency(folder, space, measured)
    return cost, measured


def _measure(cost: CostModel, model: nn.Module, space: SearchSpace, data: Data) -> Any:
    """Measures what a cost needs, and loads it as it is stored. Returns it; None for nothing."""
    if not cost.measures:
        return None
    measured = json.loads(json.dumps(cost.measure(model, space, _example(data))))
    if measured is not None:
        cost.load(measured)
    return measured


def whole_cost(context: RoundContext, problem: Problem) -> float:
    """The unpruned network's cost, which targets are shares of; in later rounds, that of the first round's network."""
    reference, name, folder = context.reference, context.config.search.cost, context.folder
    if reference is None:
        return problem.cost_of(problem.space.full())
    if is_own(name) and folder.cost.is_file():
        return recorded_cost(folder, reference.folder, reference.space, name)
    cost, _ = _ready_cost(name, reference.folder, reference.model, reference.space, context.data, context.progress)
    return cost.of(reference.space, reference.space.phenotype(reference.space.full()))


def criterion_context(
    problem: Problem, workers: Workers, calibration: Split, seed: int, device: torch.device, most_gram_bytes: int
) -> CriterionContext:
    """The input of importance criteria: the baseline, and the calibration images with their targets.

    Args:
        most_gram_bytes: memory for statistics of layers' inputs, if the problem has none yet.
    """
    images, targets = calibration.tensors()
    examples = Examples(images, targets)
    return CriterionContext(
        model=problem.model,
        space=problem.space,
        images=images,
        targets=targets,
        rng=np.random.default_rng([seed, CRITERION_SEED]),
        losses=lambda genomes: workers.losses(genomes, examples),
        device=device,
        statistics=problem.statistics,
        most_gram_bytes=most_gram_bytes,
        task=problem.task,
    )


def set_up_search(
    problem: Problem,
    search: SearchConfig,
    seed: int,
    criterion_inputs: CriterionContext,
    unpruned_cost: float | None = None,
) -> Algorithm:
    """A search's algorithm before its first generation.

    Args:
        unpruned_cost: the cost that targets are shares of; None: that of the problem's whole network.
    """
    rng = np.random.default_rng([seed, SEARCH_SEED])
    preferences = preferences_of(search.criterion, criterion_inputs)
    return make_algorithm(problem.space, search, preferences, problem.cost_of, rng, unpruned_cost)


def _example(data: Data) -> Tensor:
    """One validation image, float (1, c, h, w)."""
    image, _ = data.validation.batch(torch.arange(1))
    return image
