"""The stages of a run, each one function: baseline, search, retrain, test. A finished stage is not done again."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.config.fields import Mark
from evoprune.config.marks import keys_with
from evoprune.config.schema import Config
from evoprune.criteria.criterion import CriterionContext
from evoprune.criteria.preferences import preferences_of
from evoprune.data.load import Data
from evoprune.data.splits import Split
from evoprune.errors import ConfigError
from evoprune.latency.layer_latency import layer_latencies_ms
from evoprune.latency.network_latency import latencies_ms, lowered
from evoprune.latency.prediction import LatencyTable, latency_table
from evoprune.networks.seeding import mixed_seed
from evoprune.networks.weights import load_weights
from evoprune.progress import Progress
from evoprune.record import files
from evoprune.record.checkpoint import Snapshot, drop_after, newest_state, write_snapshot
from evoprune.record.environment import environment
from evoprune.record.folder import RunFolder
from evoprune.record.housekeeping import drop_survivors
from evoprune.record.interrupts import uninterrupted
from evoprune.record.layer_tables import layers_frame, write_layers
from evoprune.record.loop_state import loop_from_json, loop_to_json
from evoprune.record.runs import flat_config
from evoprune.record.survivor_files import SavedSurvivor, read_survivor, write_survivor
from evoprune.record.tables import SurvivorRow, candidates_frame, survivors_frame
from evoprune.record.training_states import (
    drop_training_state,
    read_rewind,
    read_training_state,
    write_rewind,
    write_training_state,
)
from evoprune.scoring.batching import gram_bytes, measured_execution
from evoprune.scoring.candidate import Candidate
from evoprune.scoring.execution import Execution
from evoprune.scoring.losses import Examples
from evoprune.scoring.problem import errors_as_scored, make_problem
from evoprune.scoring.scorer import Problem
from evoprune.search.algorithms import make_algorithm
from evoprune.search.loop import SearchLoop
from evoprune.search.objective import Objective
from evoprune.search.survivor_choice import choose_survivors
from evoprune.space.cost import cost
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import cut_masks
from evoprune.surgery.apply import compact
from evoprune.surgery.compensation import uncompensated
from evoprune.training.evaluation import count_errors
from evoprune.training.fit import EpochReport, FitState, fit
from evoprune.workers.retraining import Retraining
from evoprune.workers.workers import Workers

BASELINE_SEED, SEARCH_SEED, RETRAIN_SEED, CRITERION_SEED = 1, 2, 3, 4
"""What is mixed with the config's seed, so that no two stages draw the same."""

BASELINE = "baseline"


@dataclass(frozen=True, eq=False)
class Reference:
    """The unpruned network that tolerance, targets, ratios and tables are against, and its search space.

    model: in eval mode. folder: of the round that began with it.
    """

    model: nn.Module
    space: SearchSpace
    folder: RunFolder


@dataclass(frozen=True, eq=False)
class RoundContext:
    """What every stage of a run, or of one of its rounds, reads.

    network: freshly initialised, or what the round before handed on. reference: None where it is this network.
    """

    config: Config
    folder: RunFolder
    data: Data
    network: nn.Module
    space: SearchSpace
    device: torch.device
    progress: Progress
    reference: Reference | None = None


def baseline(context: RoundContext, weights: Mapping[str, Tensor] | None) -> nn.Module:
    """The unpruned network in eval mode: trained before, given by `weights`, or trained now."""
    config, folder, model = context.config, context.folder, context.network
    if folder.baseline.is_file():
        load_weights(model, files.read_tensors(folder.baseline)[0], str(folder.baseline))
        return model.eval()
    if weights is not None:
        if config.retrain.start == "rewind_weights":
            raise ConfigError(
                "retrain.start must not be rewind_weights where the network's weights are given, for those of an early "
                "epoch are not known; take rewind_learning_rate, or let it be trained"
            )
        load_weights(model, weights, str(config.model.weights))
    else:
        if config.retrain.start == "rewind_weights" and config.rewind_epoch == 0:
            write_rewind(folder, FitState.before(model))
        context.progress.stage(BASELINE, f"{config.train.epochs} epochs on {len(context.data.train)} images")
        fit(
            model,
            context.data.train,
            config.train,
            mixed_seed(config.seed, BASELINE_SEED),
            context.device,
            augment=config.data.augment,
            state=read_training_state(folder, BASELINE, context.progress.note),
            on_epoch=_keeping_state(context, BASELINE),
        )
    with uninterrupted():
        files.write_tensors(folder.baseline, FitState.before(model).weights, {})
        drop_training_state(folder, BASELINE)
    return model.cpu().eval()


def pose_problem(context: RoundContext, model: nn.Module) -> Problem:
    """What candidates of the baseline are scored against, and how: that is measured once a run."""
    problem = unmeasured_problem(context, model)
    path = context.folder.execution
    if not path.is_file():
        files.write_json(path, asdict(measured_execution(problem, context.device, context.config.workers)))
    return replace(problem, execution=Execution(**files.read_json(path)))


def unmeasured_problem(context: RoundContext, model: nn.Module) -> Problem:
    """What candidates of the baseline are scored against."""
    config, data = context.config, context.data
    compensate = config.search.compensation == "gram"
    calibration, _ = data.calibration.tensors()
    images, labels = data.validation.tensors()
    baseline_errors = None
    if reference := context.reference:
        baseline_errors = errors_as_scored(
            reference.model, reference.space, calibration, images, labels, context.device
        )
    problem = make_problem(
        model,
        context.space,
        calibration,
        images,
        labels,
        tolerance=config.search.allowed_rise,
        compensate=compensate,
        device=context.device,
        cost=config.search.cost,
        gram_bytes=gram_bytes(config.workers),
        baseline_errors=baseline_errors,
    )
    if config.search.cost == "latency_ms":
        problem = replace(problem, latency=_latency_table(context, Reference(model, context.space, context.folder)))
    if compensate and (left_out := uncompensated(context.space, problem.statistics or {})):
        context.progress.note(f"without compensation: {', '.join(left_out)}")
    return problem


def _latency_table(context: RoundContext, timed: Reference) -> LatencyTable:
    """Times of a network's layers: those that its folder has of its search space, else taken now and kept there.

    Read again even on another machine, so that a search that goes on judges as it did before.
    """
    path, space = timed.folder.latency, timed.space
    stored = files.read_json(path) if path.is_file() else {}
    if stored.get("space") != space.fingerprint:
        context.progress.stage("latency", f"times of {len(space.layers)} layers")
        image, _ = context.data.validation.batch(torch.arange(1))
        table = latency_table(timed.model, space, image)
        stored = {"space": space.fingerprint, "machine": environment()["cpu"], "table": table.to_dict()}
        files.write_json(path, stored)
    return LatencyTable.from_dict(files.read_json(path)["table"])


def whole_cost(context: RoundContext, problem: Problem) -> float:
    """The unpruned network's cost, which targets are shares of: that of the first round's, whatever is left of it."""
    reference = context.reference
    if reference is None:
        return problem.cost_of(problem.space.full())
    latency = _latency_table(context, reference) if problem.latency is not None else None
    whole = replace(problem, model=reference.model, space=reference.space, latency=latency)
    return whole.cost_of(reference.space.full())


def search(context: RoundContext, problem: Problem, workers: Workers) -> list[Candidate]:
    """Runs what is left of the search. Returns the survivors, cheapest first."""
    config, folder, space = context.config, context.folder, context.space
    rng = np.random.default_rng([config.seed, SEARCH_SEED])
    criterion_inputs = criterion_context(
        problem, workers, context.data.calibration, config.seed, context.device, gram_bytes(config.workers)
    )
    preferences = preferences_of(config.search.criterion, criterion_inputs)
    whole = whole_cost(context, problem)
    algorithm = make_algorithm(space, config.search, preferences, problem.cost_of, rng, whole)
    fingerprint = search_fingerprint(config, space)
    snapshot, told = newest_state(folder, fingerprint, context.progress.note)
    last = snapshot.generation if snapshot is not None else -1
    drop_after(folder, last)
    context.progress.stage("search", f"{space.genes} genes in {len(space.groups)} groups")
    loop = SearchLoop(algorithm, space, workers, config.search, context.progress, len(problem.labels))
    if snapshot is not None:
        loop.restore(last + 1, snapshot.algorithm, loop_from_json(snapshot.loop), told)
    while loop.has_next():
        generation = loop.next()
        number = generation.number
        with uninterrupted():
            files.write_parquet(folder.candidates(number), candidates_frame(generation.candidates))
            write_snapshot(folder, Snapshot(number, algorithm.state(), loop_to_json(generation.state), fingerprint))
        context.progress.generation(generation.summary)
    unchanged = space.key(space.full())
    front = [candidate for candidate in algorithm.front if candidate.key != unchanged]
    return choose_survivors(front, config.retrain.survivors, Objective.of(config.search, whole))


def criterion_context(
    problem: Problem, workers: Workers, calibration: Split, seed: int, device: torch.device, most_gram_bytes: int
) -> CriterionContext:
    """What criteria of importance look at: the baseline, and the calibration images with their labels.

    most_gram_bytes: what statistics of layers' inputs may take, where there are none yet.
    """
    images, labels = calibration.tensors()
    examples = Examples(images, labels)
    return CriterionContext(
        model=problem.model,
        space=problem.space,
        images=images,
        labels=labels,
        rng=np.random.default_rng([seed, CRITERION_SEED]),
        losses=lambda genomes: workers.losses(genomes, examples),
        device=device,
        statistics=problem.statistics,
        most_gram_bytes=most_gram_bytes,
    )


def search_fingerprint(config: Config, space: SearchSpace) -> dict[str, Any]:
    """What a search was made under: the round's config but for what may change, and the search space."""
    left_out = keys_with(Mark.MAY_CHANGE) | keys_with(Mark.OUTSIDE_SEARCH)
    fixed = {key: value for key, value in flat_config(config).items() if key not in left_out}
    return fixed | {"search space": space.fingerprint}


def retrain(context: RoundContext, workers: Workers, survivors: Sequence[Candidate]) -> dict[str, Mapping[str, Tensor]]:
    """Retrains the survivors that are not retrained yet. Returns every one's weights by key."""
    config, folder, data = context.config, context.folder, context.data
    drop_survivors(folder, keep={survivor.key for survivor in survivors})
    left = [survivor for survivor in survivors if not _is_retrained(context, survivor)]
    if left:
        context.progress.stage("retrain", f"{len(left)} survivors, {config.retrain.epochs} epochs each")
        states = workers.retrain(
            [survivor.genome for survivor in left],
            [read_training_state(folder, survivor.key, context.progress.note) for survivor in left],
            retraining_of(context),
            lambda index, report, state: _keeping_state(context, left[index].key)(report, state),
        )
        for survivor, state in zip(left, states, strict=True):
            with uninterrupted():
                saved = SavedSurvivor(state.weights, data.input_format)
                write_survivor(folder.survivor(survivor.key), saved, context.space, survivor.genome)
                drop_training_state(folder, survivor.key)
    return {
        survivor.key: read_survivor(folder.survivor(survivor.key), context.space, survivor.genome).tensors
        for survivor in survivors
    }


def retraining_of(context: RoundContext) -> Retraining:
    """How survivors are retrained; in later rounds, too, the run's own baseline is who teaches them.

    Raises ConfigError where the weights to rewind to were not kept.
    """
    config = context.config
    rewound = None
    if config.retrain.start == "rewind_weights":
        rewound = read_rewind(context.folder, config.rewind_epoch)
    seed = mixed_seed(config.seed, RETRAIN_SEED)
    return Retraining(
        config.retrain,
        context.data.train,
        config.data.augment,
        seed,
        config.train,
        rewound,
        teacher=None if context.reference is None else context.reference.model.cpu(),
    )


def _is_retrained(context: RoundContext, survivor: Candidate) -> bool:
    """Whether the folder has the survivor's network; one that is damaged is told of, and is none."""
    path = context.folder.survivor(survivor.key)
    if not path.is_file():
        return False
    try:
        read_survivor(path, context.space, survivor.genome)
    except files.DamagedFileError as error:
        context.progress.note(f"{error}; it is retrained again")
        return False
    return True


def test(
    context: RoundContext,
    model: nn.Module,
    survivors: Sequence[Candidate],
    weights: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Reads the test set once for the baseline and all survivors, times them layer by layer, and writes the tables."""
    folder, data, device = context.folder, context.data, context.device
    context.progress.stage("test", f"{len(data.test)} images")
    reference = context.reference or Reference(model, context.space, context.folder)
    networks = {BASELINE: reference.model.to(device)}
    for survivor in survivors:
        network = compact(model, context.space, survivor.genome)
        load_weights(network, weights[survivor.key], str(folder.survivor(survivor.key)))
        networks[survivor.key] = network.to(device).eval()
    mcr_test, mcr_validation = (_mcr(networks, split, device) for split in (data.test, data.validation))
    image, _ = data.validation.batch(torch.arange(1))
    masks = {survivor.key: cut_masks(context.space, context.space.check(survivor.genome)) for survivor in survivors}
    latency_ms = latencies_ms(lowered(networks, masks, image.to(device)), image.to(device))
    times_ms = layer_latencies_ms(networks, [layer.name for layer in reference.space.layers], image.to(device))
    whole = cost(reference.space, reference.space.full())
    rows = [
        SurvivorRow(
            key=survivor.key,
            mcr_search=survivor.score.errors / survivor.score.images,
            mcr_retrained=mcr_validation[survivor.key],
            mcr_test=mcr_test[survivor.key],
            baseline_mcr_test=mcr_test[BASELINE],
            macs=survivor.score.macs,
            macs_ratio=survivor.score.macs / whole.macs,
            params=survivor.score.params,
            params_ratio=survivor.score.params / whole.params,
            latency_ms=latency_ms[survivor.key],
            baseline_latency_ms=latency_ms[BASELINE],
            weights=folder.survivor(survivor.key).relative_to(folder.root).as_posix(),
            baseline_mcr_validation=mcr_validation[BASELINE],
            bytes=survivor.score.bytes,
            bytes_ratio=survivor.score.bytes / whole.bytes,
            predicted_latency_ms=survivor.score.latency_ms,
        )
        for survivor in survivors
    ]
    genomes = {survivor.key: survivor.genome for survivor in survivors}
    layers = layers_frame(reference.space, context.space, genomes, times_ms, times_ms[BASELINE])
    with uninterrupted():
        write_layers(folder, layers)
        files.write_parquet(folder.survivors_table, survivors_frame(rows))


def _mcr(networks: Mapping[str, nn.Module], split: Split, device: torch.device) -> dict[str, float]:
    """Each network's MCR on a split; NaN where it has no images."""
    if not len(split):
        return dict.fromkeys(networks, math.nan)
    return {name: count_errors(network, split, device) / len(split) for name, network in networks.items()}


def _keeping_state(context: RoundContext, network: str) -> Callable[[EpochReport, FitState], None]:
    """What keeps a network's training after every epoch, and reports it."""
    config = context.config

    def keep(report: EpochReport, state: FitState) -> None:
        with uninterrupted():
            if (network, config.retrain.start) == (BASELINE, "rewind_weights") and state.epoch == config.rewind_epoch:
                write_rewind(context.folder, state)
            write_training_state(context.folder, network, state)
        context.progress.epoch(network, report.epoch, report.epochs, report.loss)

    return keep
