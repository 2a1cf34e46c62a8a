"""Methods that train while they choose: pruning in steps, and masks on single weights."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from torch import nn

from evoprune.bench.study.choosing import MethodContext
from evoprune.bench.study.methods import SINGLE_WEIGHTS, Method
from evoprune.config.choices import CriterionName
from evoprune.config.schedules import kept_fractions
from evoprune.criteria.importance_by_name import map_importance, weight_importance
from evoprune.criteria.weight_ranking import kept_fraction_for, weight_masks
from evoprune.discovery.discover import discover
from evoprune.errors import ConfigError
from evoprune.networks.seeding import mixed_seed
from evoprune.networks.weights import load_weights
from evoprune.pipeline.round_context import RETRAIN_SEED
from evoprune.scoring.batching import gram_bytes
from evoprune.scoring.losses import errors_on_validation
from evoprune.scoring.problem import make_problem
from evoprune.scoring.scorer import Problem
from evoprune.search.ranking import ranked_genome
from evoprune.space.cost import Cost, cost
from evoprune.space.plan import Genome
from evoprune.surgery.apply import compact
from evoprune.surgery.recalibration import recalibrate
from evoprune.surgery.weight_masks import WeightMasks, sparse_cost, with_masked_weights
from evoprune.training.fit import FitState
from evoprune.workers.protocol import score
from evoprune.workers.retraining import Retrainer, Retraining
from evoprune.workers.workers import SerialPool


@dataclass(frozen=True, eq=False)
class Start:
    """A network before its (last) retraining.

    Attributes:
        genome: of the problem's search space.
        state: its weights.
        left: its cost.
        mcr_before: its MCR on the validation set.
        key: identifies the network among others.
        seconds: duration of the choice, for all targets together.
    """

    genome: Genome
    state: FitState
    left: Cost
    mcr_before: float
    key: str
    seconds: float


def starts_of(context: MethodContext, method: Method, seed: int) -> list[Start]:
    """The network of every target before its last retraining, which is `last_retraining`."""
    started = time.perf_counter()
    unstructured = method.kind == "unstructured"
    starts = (_unstructured if unstructured else _scheduled)(context, method, seed)
    seconds = time.perf_counter() - started
    return [replace(start, seconds=seconds) for start in starts]


def last_retraining(context: MethodContext, method: Method, seed: int) -> Retraining:
    """The last retraining: of all epochs with single weights masked; of a step's epochs with a schedule."""
    if method.kind == "unstructured":
        return replace(context.retraining(context.config.retrain, seed), zeros_stay=True)
    return _step_retraining(context, seed, context.steps - 1)


def _unstructured(context: MethodContext, method: Method, seed: int) -> list[Start]:
    """Masks on single weights of the unpruned network: see `surgery.weight_masks`."""
    problem, space = context.problem, context.problem.space
    scores = weight_importance(SINGLE_WEIGHTS[method.by], context.criterion_inputs(seed))
    starts = []
    for params in context.costs:
        masks = weight_masks(scores, kept_fraction_for(space, int(params)), method.scope)
        network = with_masked_weights(problem.model, masks).to(context.device).eval()
        recalibrate(network, problem.calibration.to(context.device))
        left, key = sparse_cost(space, masks), _key_of(masks)
        starts.append(Start(space.full(), FitState.before(network), left, _mcr(network, context), key, 0.0))
    return starts


def _scheduled(context: MethodContext, method: Method, seed: int) -> list[Start]:
    """Prunes and trains in turn, each step to its share by the schedule.

    Every step ranks the feature maps of the network as trained by then.

    References:
        Han et al. 2015; Zhu and Gupta 2017.
    """
    steps = context.steps
    shares = [kept_fractions(method.schedule, steps, target) for target in context.targets]
    networks = [(context.problem.space.full(), context.problem) for _ in context.targets]
    for step in range(steps):
        starts = [
            _pruned(context, method, genome, problem, context.cost_at(share[step]), seed)
            for (genome, problem), share in zip(networks, shares, strict=True)
        ]
        if step < steps - 1:
            networks = _trained(context, starts, _step_retraining(context, seed, step))
    return starts


def _pruned(
    context: MethodContext, method: Method, genome: Genome, problem: Problem, target: float, seed: int
) -> Start:
    """A network brought to a cost by its own ranking.

    Args:
        context: of the unpruned network.
        method: names the criterion and the scope.
        genome: of the network, in the unpruned network's search space.
        problem: the network as a problem of its own.
        target: highest cost allowed.
        seed: of the criterion.
    """
    local = SerialPool(context.device, context.config.workers.threads).workers(problem)
    inputs = replace(context, problem=problem, workers=local).criterion_inputs(seed)
    values = map_importance(cast(CriterionName, method.by), inputs)
    smaller = ranked_genome(problem.space, values, target, method.scope, problem.cost_of)
    [outcome] = score(local, [smaller], problem.first_conditions())
    retraining = context.retraining(context.config.retrain, seed)
    state = Retrainer(problem, retraining, context.device).start(smaller)
    space, kept = context.problem.space, within(genome, smaller)
    mcr = outcome.score.errors / len(problem.images)
    return Start(kept, state, cost(space, kept), mcr, space.key(kept), 0.0)


def within(genome: Genome, smaller: Genome) -> Genome:
    """A genome of the network that `genome` leaves, as one of the network that `genome` is of: feature maps alone."""
    result = genome.copy()
    result[np.flatnonzero(genome)] = smaller
    return result


def _trained(context: MethodContext, starts: Sequence[Start], retraining: Retraining) -> list[tuple[Genome, Problem]]:
    """The networks after a step's training, each as a problem of its own."""
    genomes = [start.genome for start in starts]
    states = [start.state for start in starts]
    trained = context.workers.retrain(genomes, states, retraining, lambda index, report, state: None)
    return [(genome, _posed(context, genome, state)) for genome, state in zip(genomes, trained, strict=True)]


def _posed(context: MethodContext, genome: Genome, state: FitState) -> Problem:
    unpruned, config = context.problem, context.config
    network = compact(unpruned.model, unpruned.space, genome)
    load_weights(network, state.weights, "retrained weights")
    space = discover(network.eval(), unpruned.calibration[:1], config.space)
    if space.genes != int(genome.sum()):
        raise ConfigError(
            f"{config.model.network}: its pruned network has another search space (of {space.genes} genes instead of "
            f"{int(genome.sum())}), so it does not go with methods with a schedule; take others"
        )
    return make_problem(
        network,
        space,
        unpruned.calibration,
        unpruned.images,
        unpruned.targets,
        tolerance=1.0,
        compensate=config.search.compensation == "gram",
        device=context.device,
        cost=unpruned.cost,
        gram_bytes=gram_bytes(config.workers),
        execution=unpruned.execution,
        task=unpruned.task,
        balanced=unpruned.weights is not None,
    )


def _step_retraining(context: MethodContext, seed: int, step: int) -> Retraining:
    """Retraining for a step's part of the epochs, with a learning-rate schedule of its own."""
    settings = context.config.retrain
    settings = settings.model_copy(update={"epochs": settings.epochs // context.steps})
    return replace(context.retraining(settings, seed), seed=mixed_seed(seed, RETRAIN_SEED, step))


def _mcr(network: nn.Module, context: MethodContext) -> float:
    """The network's MCR on the validation set."""
    return errors_on_validation(context.problem, network, context.device) / len(context.problem.images)


def _key_of(masks: WeightMasks) -> str:
    """A key that equal masks share."""
    digest = hashlib.sha256()
    for name, mask in masks.items():
        digest.update(name.encode() + np.packbits(mask.numpy().reshape(-1)).tobytes())
    return digest.hexdigest()[:16]
