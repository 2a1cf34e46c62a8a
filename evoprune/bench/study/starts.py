"""Methods of a study that begin their (last) retraining with more than a genome: schedules, single weights."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import nn

from evoprune.bench.study.methods import SINGLE_WEIGHTS, Bench, Method, subject_in
from evoprune.config.schedules import kept_fractions
from evoprune.config.schema import Config, CriterionName
from evoprune.criteria.registry import map_importance, weight_importance
from evoprune.criteria.weight_ranking import kept_fraction_for, weight_masks
from evoprune.discovery.discover import discover
from evoprune.errors import ConfigError
from evoprune.networks.seeding import mixed_seed
from evoprune.networks.weights import load_weights
from evoprune.pipeline.round_context import RETRAIN_SEED
from evoprune.pipeline.stages import retraining_with
from evoprune.scoring.batching import gram_bytes
from evoprune.scoring.problem import make_problem
from evoprune.scoring.scorer import Problem
from evoprune.search.ranking import ranked_genome
from evoprune.space.cost import Cost, cost
from evoprune.space.plan import Genome
from evoprune.surgery.apply import compact
from evoprune.surgery.recalibration import recalibrate
from evoprune.surgery.weight_masks import WeightMasks, sparse_cost, with_masked_weights
from evoprune.training.evaluation import batches_of, count_misclassified, outputs
from evoprune.training.fit import FitState
from evoprune.workers.protocol import score
from evoprune.workers.retraining import Retrainer, Retraining
from evoprune.workers.workers import SerialPool


@dataclass(frozen=True, eq=False)
class Start:
    """A network that is about to be retrained (for the last time).

    genome: of the problem's search space; state: its weights; left: what it costs; key: what tells it from others.
    seconds: of getting there, for all targets at once.
    """

    genome: Genome
    state: FitState
    left: Cost
    mcr_before: float
    key: str
    seconds: float


def starts_of(bench: Bench, method: Method, steps: int, seed: int) -> list[Start]:
    """What the method begins the last retraining of every target with, and `last_retraining` goes on from."""
    started = time.perf_counter()
    starts = (
        _unstructured(bench, method, seed) if method.kind == "unstructured" else _stepped(bench, method, steps, seed)
    )
    seconds = time.perf_counter() - started
    return [replace(start, seconds=seconds) for start in starts]


def last_retraining(bench: Bench, method: Method, steps: int, seed: int) -> Retraining:
    """How it is then retrained: single weights as any other, a schedule's last step for its part of the epochs."""
    if method.kind == "unstructured":
        return replace(_retraining(bench, bench.config, seed), zeros_stay=True)
    return _step_retraining(bench, steps, seed, steps - 1)


def _unstructured(bench: Bench, method: Method, seed: int) -> list[Start]:
    """Masks on single weights of the whole network, all else of which stays: see `surgery.unstructured`."""
    problem, space = bench.problem, bench.problem.space
    subject = subject_in(bench, seed)
    scores = weight_importance(SINGLE_WEIGHTS[method.by], subject)
    starts = []
    for params in bench.costs:
        masks = weight_masks(scores, kept_fraction_for(space, int(params)), method.scope)
        network = with_masked_weights(problem.model, masks).to(bench.device).eval()
        recalibrate(network, problem.calibration.to(bench.device))
        left, key = sparse_cost(space, masks), _key_of(masks)
        starts.append(Start(space.full(), FitState.before(network), left, _mcr(network, bench), key, 0.0))
    return starts


def _stepped(bench: Bench, method: Method, steps: int, seed: int) -> list[Start]:
    """Prune and train in turn, each step's share by the schedule: Han et al. 2015; Zhu and Gupta 2017.

    Every step ranks the feature maps of the network as it was trained by then.
    """
    shares = [kept_fractions(method.schedule, steps, target) for target in bench.targets]
    networks = [(bench.problem.space.full(), bench.problem) for _ in bench.targets]
    for step in range(steps):
        starts = [
            _pruned(bench, method, genome, posed, bench.cost_at(share[step]), seed)
            for (genome, posed), share in zip(networks, shares, strict=True)
        ]
        if step < steps - 1:
            networks = _trained(bench, starts, _step_retraining(bench, steps, seed, step))
    return starts


def _pruned(bench: Bench, method: Method, genome: Genome, posed: Problem, target: float, seed: int) -> Start:
    """The network of the genome, posed as a problem of its own, brought to a cost by its own ranking."""
    local = SerialPool(bench.device, bench.config.workers.threads).workers(posed)
    subject = subject_in(replace(bench, problem=posed, workers=local), seed)
    values = map_importance(cast(CriterionName, method.by), subject)
    smaller = ranked_genome(posed.space, values, target, method.scope, posed.cost_of)
    [outcome] = score(local, [smaller], posed.first_conditions())
    state = Retrainer(posed, _retraining(bench, bench.config, seed), bench.device).start(smaller)
    return _start(bench, within(genome, smaller), state, outcome.score.errors)


def within(genome: Genome, smaller: Genome) -> Genome:
    """A genome of the network that `genome` leaves as one of the network that `genome` is of: feature maps alone."""
    result = genome.copy()
    result[np.flatnonzero(genome)] = smaller
    return result


def _start(bench: Bench, genome: Genome, state: FitState, errors: int) -> Start:
    space = bench.problem.space
    return Start(genome, state, cost(space, genome), errors / len(bench.problem.labels), space.key(genome), 0.0)


def _trained(bench: Bench, starts: Sequence[Start], retraining: Retraining) -> list[tuple[Genome, Problem]]:
    """The networks after a step's training, each posed as a problem of its own."""
    genomes = [start.genome for start in starts]
    states = bench.workers.retrain(
        genomes, [start.state for start in starts], retraining, lambda index, report, state: None
    )
    return [(genome, _posed(bench, genome, state)) for genome, state in zip(genomes, states, strict=True)]


def _posed(bench: Bench, genome: Genome, state: FitState) -> Problem:
    whole, config = bench.problem, bench.config
    network = compact(whole.model, whole.space, genome)
    load_weights(network, state.weights, "retrained weights")
    space = discover(network.eval(), whole.calibration[:1], config.space)
    if space.genes != int(genome.sum()):
        raise ConfigError(
            f"{config.model.network}: its pruned network has another search space (of {space.genes} genes where "
            f"{int(genome.sum())} are left); methods with a schedule do not go with it"
        )
    return make_problem(
        network,
        space,
        whole.calibration,
        whole.images,
        whole.labels,
        tolerance=1.0,
        compensate=config.search.compensation == "gram",
        device=bench.device,
        cost=whole.cost,
        gram_bytes=gram_bytes(config.workers),
        execution=whole.execution,
    )


def _step_retraining(bench: Bench, steps: int, seed: int, step: int) -> Retraining:
    """A step's part of the epochs, on a schedule of its own."""
    settings = bench.config.retrain.model_copy(update={"epochs": bench.config.retrain.epochs // steps})
    config = bench.config.model_copy(update={"retrain": settings})
    return replace(_retraining(bench, config, seed), seed=mixed_seed(seed, RETRAIN_SEED, step))


def _retraining(bench: Bench, config: Config, seed: int) -> Retraining:
    return retraining_with(config.retrain, config, bench.data.train, seed)


def _mcr(network: nn.Module, bench: Bench) -> float:
    """On the validation set."""
    problem, size = bench.problem, bench.problem.execution.batch_size
    with torch.inference_mode():
        batches = batches_of(problem.images, problem.labels, size)
        errors = sum(count_misclassified(*pair) for pair in outputs(network, batches, bench.device))
    return errors / len(problem.labels)


def _key_of(masks: WeightMasks) -> str:
    """Equal masks have equal keys."""
    digest = hashlib.sha256()
    for name, mask in masks.items():
        digest.update(name.encode() + np.packbits(mask.numpy().reshape(-1)).tobytes())
    return digest.hexdigest()[:16]
