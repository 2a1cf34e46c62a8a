"""The first stages of a run, each one function: baseline, search, retrain. A finished stage is not done again."""

import logging
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from evoprune.config.schema import Config, RetrainConfig
from evoprune.criteria.preferences import expected_seconds
from evoprune.data.splits import Split
from evoprune.errors import ConfigError
from evoprune.networks.seeding import mixed_seed
from evoprune.networks.weights import load_weights
from evoprune.pipeline.posing import criterion_context, set_up_search, whole_cost
from evoprune.pipeline.resuming import search_fingerprint
from evoprune.pipeline.round_context import BASELINE, BASELINE_SEED, RETRAIN_SEED, RoundContext
from evoprune.progress import counted
from evoprune.record import files
from evoprune.record.checkpoint import Snapshot, drop_after, newest_state, restore_search, write_snapshot
from evoprune.record.housekeeping import drop_survivors
from evoprune.record.interrupts import uninterrupted
from evoprune.record.loop_state import loop_to_json
from evoprune.record.survivor_files import SavedSurvivor, read_survivor, write_survivor
from evoprune.record.tables import candidates_frame
from evoprune.record.training_states import (
    drop_training_state,
    read_rewind,
    read_training_state,
    write_rewind,
    write_training_state,
)
from evoprune.scoring.batching import gram_bytes
from evoprune.scoring.candidate import Candidate
from evoprune.scoring.scorer import Problem
from evoprune.search.loop import SearchLoop
from evoprune.search.objective import Objective
from evoprune.search.survivor_choice import choose_survivors
from evoprune.space.search_space import SearchSpace
from evoprune.training.fit import EpochReport, FitState, fit
from evoprune.training.recipes import find_recipe
from evoprune.workers.protocol import Workers
from evoprune.workers.retraining import Retraining

logger = logging.getLogger(__name__)

WORTH_SAYING_SECONDS = 5
"""Expected duration from which a stage says it, in seconds."""


def baseline(context: RoundContext, weights: Mapping[str, Tensor] | None) -> nn.Module:
    """The unpruned network.

    Args:
        weights: of the trained network; None: the network is trained, unless the run folder has its weights.

    Returns:
        The network, on the CPU, in eval mode; its weights are in the run folder.

    Raises:
        ConfigError: if survivors are to be rewound to an early epoch, and the weights are given.
        TrainingError: if training diverges.
    """
    config, folder, model = context.config, context.folder, context.network
    if folder.baseline.is_file():
        load_weights(model, files.read_tensors(folder.baseline)[0], str(folder.baseline))
        return model.eval()
    if weights is not None:
        if config.retrain.start == "rewind_weights":
            raise ConfigError(
                "retrain.start must not be rewind_weights if the network's weights are given, because those of an "
                "early epoch are not known; take rewind_learning_rate, or let the network be trained"
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
            task=context.task,
            state=read_training_state(folder, BASELINE),
            on_epoch=_save_epochs(context, BASELINE),
        )
    with uninterrupted():
        files.write_tensors(folder.baseline, FitState.before(model).weights, {})
        drop_training_state(folder, BASELINE)
    return model.cpu().eval()


def search(context: RoundContext, problem: Problem, workers: Workers) -> list[Candidate]:
    """Runs the generations that are left. Returns the survivors, cheapest first."""
    config, folder, space = context.config, context.folder, context.space
    if space.maps:
        context.progress.stage("ranking", _ranking(config.search.criterion, space))
    criterion_inputs = criterion_context(
        problem, workers, context.data.calibration, config.seed, context.device, gram_bytes(config.workers)
    )
    unpruned_cost = whole_cost(context, problem)
    algorithm = set_up_search(problem, config.search, config.seed, criterion_inputs, unpruned_cost)
    fingerprint = search_fingerprint(config, space)
    snapshot, scored_before = newest_state(folder, fingerprint, space, len(problem.images))
    last = snapshot.generation if snapshot is not None else -1
    drop_after(folder, last)
    context.progress.stage("search", f"{space.genes} genes in {len(space.groups)} groups")
    loop = SearchLoop(algorithm, space, workers, config.search, context.progress, len(problem.images))
    if snapshot is not None:
        restore_search(folder, loop, algorithm, snapshot, scored_before)
    while loop.has_next():
        generation = loop.next()
        number = generation.number
        with uninterrupted():
            files.write_parquet(folder.candidates(number), candidates_frame(generation.candidates))
            write_snapshot(folder, Snapshot(number, algorithm.state(), loop_to_json(generation.state), fingerprint))
        context.progress.generation(generation.summary)
    unchanged = space.key(space.full())
    front = [candidate for candidate in algorithm.front if candidate.key != unchanged]
    return choose_survivors(front, config.retrain.survivors, Objective.of(config.search, unpruned_cost))


def _ranking(criterion: str, space: SearchSpace) -> str:
    """The stage in which a criterion ranks feature maps, with its expected duration if that is long."""
    seconds = expected_seconds(criterion, space)
    duration = f", about {seconds:.0f} s" if seconds >= WORTH_SAYING_SECONDS else ""
    return f"{space.maps} feature maps by {criterion}{duration}"


def retrain(context: RoundContext, workers: Workers, survivors: Sequence[Candidate]) -> dict[str, Mapping[str, Tensor]]:
    """Retrains the survivors that are not retrained yet. Returns the weights of all survivors by key."""
    config, folder, data = context.config, context.folder, context.data
    drop_survivors(folder, keep={survivor.key for survivor in survivors})
    left = [survivor for survivor in survivors if not _is_retrained(context, survivor)]
    if left:
        if config.retrain.epochs:
            epochs = counted(config.retrain.epochs, "epoch")
            context.progress.stage("retrain", f"{counted(len(left), 'survivor')}, {epochs} each")
        states = workers.retrain(
            [survivor.genome for survivor in left],
            [read_training_state(folder, survivor.key) for survivor in left],
            round_retraining(context),
            lambda index, report, state: _save_epochs(context, left[index].key)(report, state),
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


def round_retraining(context: RoundContext) -> Retraining:
    """The retraining of a round's survivors. In every round, the teacher is the unpruned network of the first.

    Raises:
        ConfigError: if the weights to rewind to were not kept.
    """
    config = context.config
    rewound = None
    if config.retrain.start == "rewind_weights":
        rewound = read_rewind(context.folder, config.rewind_epoch)
    teacher = None if context.reference is None else context.reference.model.cpu()
    return retraining_with(config.retrain, config, context.data.train, config.seed, rewound, teacher)


def retraining_with(
    settings: RetrainConfig,
    config: Config,
    split: Split,
    seed: int,
    rewound: Mapping[str, Tensor] | None = None,
    teacher: nn.Module | None = None,
) -> Retraining:
    """Retraining by these settings, on these images.

    Args:
        config: of the run, for augmentation and for the baseline's own training schedule.
        seed: of the run or study; retraining mixes it with a number of its own.
        rewound: the network's weights at an early epoch, if survivors are rewound to them.
        teacher: whose outputs are distilled; None: the problem's network.
    """
    return Retraining(
        settings,
        split,
        config.data.augment,
        mixed_seed(seed, RETRAIN_SEED),
        config.train,
        rewound,
        teacher=teacher,
        make_recipe=find_recipe(settings.recipe),
    )


def _is_retrained(context: RoundContext, survivor: Candidate) -> bool:
    """Whether the folder has the survivor's network, whole. A damaged one is logged, and retrained."""
    path = context.folder.survivor(survivor.key)
    if not path.is_file():
        return False
    try:
        read_survivor(path, context.space, survivor.genome)
    except files.DamagedFileError as error:
        logger.warning("%s; it is retrained again", error)
        return False
    return True


def _save_epochs(context: RoundContext, network: str) -> Callable[[EpochReport, FitState], None]:
    """A function that saves a network's training state after every epoch, and reports the epoch."""
    config = context.config

    def save(report: EpochReport, state: FitState) -> None:
        with uninterrupted():
            if (network, config.retrain.start) == (BASELINE, "rewind_weights") and state.epoch == config.rewind_epoch:
                write_rewind(context.folder, state)
            write_training_state(context.folder, network, state)
        context.progress.epoch(network, report.epoch, report.epochs, report.loss)

    return save
