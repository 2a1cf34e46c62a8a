"""From a baseline to the problem that candidates are scored on, and to the algorithm that solves it."""

import logging
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.config.schema import Config, SearchConfig
from evoprune.criteria.criterion import CriterionContext
from evoprune.criteria.preferences import preferences_of
from evoprune.data.load import Data, load_data
from evoprune.data.splits import Split
from evoprune.discovery.discover import discover
from evoprune.errors import ConfigError
from evoprune.latency.prediction import LatencyTable, latency_table
from evoprune.pipeline.configured import fresh_network, given_weights, probe_image
from evoprune.pipeline.round_context import CRITERION_SEED, SEARCH_SEED, Reference, RoundContext
from evoprune.progress import Progress
from evoprune.record import files
from evoprune.record.environment import environment
from evoprune.record.folder import RunFolder
from evoprune.record.json_files import read_execution, read_latency_table
from evoprune.scoring.batching import gram_bytes, measured_execution
from evoprune.scoring.losses import Examples
from evoprune.scoring.problem import errors_as_scored, make_problem
from evoprune.scoring.scorer import Problem
from evoprune.search.algorithm import Algorithm
from evoprune.search.algorithms import make_algorithm
from evoprune.space.search_space import SearchSpace
from evoprune.surgery.layer_statistics import uncompensated
from evoprune.training.devices import resolve_device
from evoprune.workers.protocol import Workers

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
    data = load_data(config.data, config.seed)
    network = fresh_network(config, data.image_shape, data.classes)
    given_weights(config, network, data.image_shape)
    space = discover(network, probe_image(data.image_shape), config.space)
    model = network.eval()
    problem = problem_of(config, data, model, space, device)
    if config.search.cost == "latency_ms":
        problem = replace(problem, latency=latency_table(model, space, _example(data)))
    return replace(problem, execution=measured_execution(problem, device, config.workers))


def pose_problem(context: RoundContext, model: nn.Module) -> Problem:
    """The problem of a round. Measured times and batch sizes are kept in the run folder, and read again on resuming."""
    config, folder, data = context.config, context.folder, context.data
    problem = problem_of(config, data, model, context.space, context.device, context.reference)
    if config.search.cost == "latency_ms":
        table = stored_latency_table(folder, model, context.space, data, context.progress)
        problem = replace(problem, latency=table)
    if not folder.execution.is_file():
        files.write_json(folder.execution, asdict(measured_execution(problem, context.device, config.workers)))
    return replace(problem, execution=read_execution(folder))


def problem_of(
    config: Config,
    data: Data,
    model: nn.Module,
    space: SearchSpace,
    device: torch.device,
    reference: Reference | None = None,
) -> Problem:
    """The problem of a baseline, before latency and batch sizes are measured.

    Args:
        reference: the unpruned network whose errors the tolerance is relative to; None: the baseline itself.
    """
    calibration, _ = data.calibration.tensors()
    images, targets = data.validation.tensors()
    baseline_errors = None
    if reference is not None:
        baseline_errors = errors_as_scored(reference.model, reference.space, calibration, images, targets, device)
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
        cost=config.search.cost,
        gram_bytes=gram_bytes(config.workers),
        baseline_errors=baseline_errors,
    )
    if compensate and (left_out := uncompensated(space, problem.statistics or {})):
        logger.warning(
            "layers left without compensation (of a kind that has none, or beyond workers.gram_memory): %s",
            ", ".join(left_out),
        )
    return problem


def stored_latency_table(
    folder: RunFolder, model: nn.Module, space: SearchSpace, data: Data, progress: Progress
) -> LatencyTable:
    """Times of a network's layers: those in the run folder if they are of this search space, else measured now.

    The stored times are used even on another machine, so that a resumed search judges candidates as before.
    """
    kept = read_latency_table(folder, space)
    if kept is None:
        progress.stage("latency", f"times of {len(space.layers)} layers")
        table = latency_table(model, space, _example(data))
        stored = {"space": space.fingerprint, "machine": environment()["cpu"], "table": table.to_dict()}
        files.write_json(folder.latency, stored)
        kept = LatencyTable.from_dict(table.to_dict())
    return kept


def whole_cost(context: RoundContext, problem: Problem) -> float:
    """The unpruned network's cost, which targets are shares of; in later rounds, that of the first round's network."""
    reference = context.reference
    if reference is None:
        return problem.cost_of(problem.space.full())
    latency = None
    if problem.latency is not None:
        latency = stored_latency_table(
            reference.folder, reference.model, reference.space, context.data, context.progress
        )
    whole = replace(problem, model=reference.model, space=reference.space, latency=latency)
    return whole.cost_of(reference.space.full())


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
