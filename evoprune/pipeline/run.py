"""The whole way: config -> baseline -> search space -> generations -> survivors -> retrained -> tested -> tables."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.config.fields import Mark
from evoprune.config.loading import config_from_dict, dump_config, load_config, refuse_untrusted, round_configs
from evoprune.config.marks import keys_with
from evoprune.config.schema import Config, SpaceConfig
from evoprune.data.load import image_shape_and_classes, load_data
from evoprune.discovery.discover import discover
from evoprune.errors import ConfigError, NetworkError, RunFolderError
from evoprune.networks.seeding import mixed_seed
from evoprune.networks.weights import load_weights, read_weights
from evoprune.networks.zoo import TORCHVISION, GreyToColour, build_network, pretrained_weights
from evoprune.pipeline import stages
from evoprune.progress import Progress, SilentProgress
from evoprune.record import files
from evoprune.record.checkpoint import read_snapshot
from evoprune.record.folder import RunFolder
from evoprune.record.housekeeping import clear, create, drop_survivors
from evoprune.record.lock import locked
from evoprune.record.places import is_remote, local_path
from evoprune.record.runs import Run, flat_config, load_run
from evoprune.record.store import stored
from evoprune.record.tensorboard import check_tensorboard, with_scalars
from evoprune.scoring.batching import measured_execution
from evoprune.scoring.scorer import Problem
from evoprune.space.search_space import SearchSpace
from evoprune.space.summary import SpaceReport, space_report
from evoprune.training.devices import resolve_device
from evoprune.training.fit import FitState
from evoprune.workers.workers import WorkerPool, open_worker_pool

NETWORK_SEED = 0
"""What is mixed with the config's seed for the network's initial weights; stages have seeds of their own."""


def run(
    config: str | Path | Config,
    overrides: Mapping[str, object] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Runs an experiment from its config to its tables.

    config: a YAML file or a validated config. overrides: {"search.population": 16}. out: the run folder
    or an fsspec URL (s3://bucket/run), results/<name> by default. overwrite: replaces a run that is there.
    Raises UserError for mistakes of the user's, before anything is written. What is interrupted goes on with `resume`.
    """
    resolved = _resolved(config, overrides)
    if out is not None and is_remote(out):
        with stored(str(out), progress or SilentProgress()) as (copy, told):
            return run(resolved, out=copy, overwrite=overwrite, progress=told)
    folder = RunFolder(local_path(out) if out is not None else Path("results") / resolved.name)
    if folder.holds_run() and not overwrite:
        raise RunFolderError(
            f"{folder.root} holds a run; go on with it by `evoprune resume {folder.root}`, or replace it by --overwrite"
        )
    return _proceed(resolved, folder, progress or SilentProgress(), fresh=True)


def resume(
    path: str | Path,
    overrides: Mapping[str, object] | None = None,
    generation: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Goes on with a run from where it stopped; a finished stage is not done again.

    overrides: of keys marked `MAY_CHANGE`; more generations carry a finished search on. Those that have code
    run (`trusted_keys`) are named again, for the folder may be somebody else's. Rounds before the
    last one, once finished, stay as they are.
    generation, out: branches off after that generation (of the last round), into a folder of its own.
    """
    if is_remote(path):
        with stored(str(path), progress or SilentProgress()) as (copy, told):
            return resume(copy, overrides, generation, out, told)
    if is_remote(out):
        raise ConfigError(f"out: a branch's folder must be on this machine's disk, not {out}")
    folder = RunFolder(load_run(path).root)
    if outer := folder.round_of():
        raise RunFolderError(f"{path} is a round of the run {outer.root}; go on with `evoprune resume {outer.root}`")
    before = load_config(folder.config)
    refuse_untrusted(before, folder.config, overrides or {})
    config = load_config(folder.config, overrides)
    _check_changes(folder, config, generation)
    if (generation is None) != (out is None):
        raise ConfigError("generation and out go together: name the generation and the folder of the branch")
    if generation is not None and out is not None:
        folder = _branch(folder, RunFolder(local_path(out)), generation)
    elif folder.survivors_table.is_file() and _results_of(before) == _results_of(config):
        return load_run(folder.root)
    return _proceed(config, folder, progress or SilentProgress(), fresh=False)


def run_or_resume(config: Config, folder: RunFolder, progress: Progress, pool: WorkerPool | None = None) -> Run:
    """The config's run in this folder: begun, gone on with, or as it is where it is finished. pool: used if given.

    Raises UserError as `run` and `resume`.
    """
    if not folder.holds_run():
        return _proceed(config, folder, progress, fresh=True, pool=pool)
    _check_changes(folder, config)
    if folder.survivors_table.is_file() and _results_of(load_config(folder.config)) == _results_of(config):
        return load_run(folder.root)
    return _proceed(config, folder, progress, fresh=False, pool=pool)


def inspect(config: str | Path | Config, overrides: Mapping[str, object] | None = None) -> SpaceReport:
    """What would be searched: layers, groups, genes, MACs, parameters. Trains nothing, and needs no usual data set.

    Of a config with rounds, this is the first one's search space: the others' depend on what it hands on.
    """
    resolved = round_configs(_resolved(config, overrides))[0]
    image_shape, classes = image_shape_and_classes(resolved.data)
    network = fresh_network(resolved, image_shape, classes)
    return space_report(resolved.model.network, discover(network, _probe_image(image_shape), resolved.space))


def inspect_network(network: str, image_shape: tuple[int, int, int], classes: int) -> SpaceReport:
    """The same of a network by name (layer string, zoo, torchvision:NAME, module:callable), for such images."""
    model = build_network(network, image_shape, classes, torch.Generator().manual_seed(0))
    return space_report(network, discover(model, _probe_image(image_shape), SpaceConfig()))


def pose(config: Config) -> Problem:
    """The problem that a config's search solves, without a run: for what measures scoring.

    Raises ConfigError where the config names no trained weights, or has rounds; and as `run`.
    """
    if config.model.weights is None or config.search.in_rounds:
        raise ConfigError(
            "model.weights must name trained weights here, and there be no search.rounds or steps: nothing is trained"
        )
    device = resolve_device(config.device)
    data = load_data(config.data, config.seed)
    network = fresh_network(config, data.image_shape, data.classes)
    load_weights(network, _given_weights(config, network) or {}, config.model.weights)
    space = discover(network, _probe_image(data.image_shape), config.space)
    nowhere = RunFolder(Path())  # posing a problem writes nothing
    context = stages.RoundContext(config, nowhere, data, network.eval(), space, device, SilentProgress())
    problem = stages.unmeasured_problem(context, context.network)
    return replace(problem, execution=measured_execution(problem, device, config.workers))


def _resolved(config: str | Path | Config, overrides: Mapping[str, object] | None) -> Config:
    if isinstance(config, Config):
        return config_from_dict(config.model_dump(mode="json"), overrides) if overrides else config
    return load_config(config, overrides)


def _proceed(config: Config, folder: RunFolder, progress: Progress, fresh: bool, pool: WorkerPool | None = None) -> Run:
    """From wherever the folder stands to the finished run. fresh: a run that is in the folder is replaced.

    pool: who works; None: whom the config asks for.
    """
    check_tensorboard(config)
    if folder.holds_run():  # whoever works on it is told of at once, not after the cluster has been started
        with locked(folder):
            pass
    device = resolve_device(config.device)
    rounds = round_configs(config)
    first = _round_folder(folder, 1, len(rounds))
    progress.stage("data", config.data.dataset)
    data = load_data(config.data, config.seed)
    network = fresh_network(config, data.image_shape, data.classes)
    trained = not fresh and first.baseline.is_file()
    weights = None if trained else _given_weights(config, network)
    progress.stage("space", config.model.network)
    # later rounds search smaller networks, but what their sections ask for is checked before anything is written
    space, *_ = [discover(network, _probe_image(data.image_shape), settings.space) for settings in rounds]
    opened = open_worker_pool(config.workers, device, progress.note) if pool is None else nullcontext(pool)
    with opened as pool, locked(folder) as held:
        if fresh and held.holds_run():
            clear(held)
        go_on_in(held, config)
        with with_scalars(progress, config, held) as told:
            carry_out(stages.RoundContext(config, held, data, network, space, device, told), weights, pool)
    finished = load_run(folder.root)
    report(finished, progress)
    progress.stage("done", str(folder.root))
    return finished


def report(run: Run, progress: Progress) -> None:
    """Pictures and report of a finished run, where its config asks for them."""
    if run.config.record.report:
        from evoprune.report.write import write_report  # it takes a second that others need not wait for

        progress.stage("report", str(RunFolder(run.root).report))
        write_report(run)


def carry_out(context: stages.RoundContext, weights: Mapping[str, Tensor] | None, pool: WorkerPool) -> None:
    """The whole way of one run, in its folder: every round from the network that the one before handed on.

    context: of the run, with the search space of the first round. weights: of the trained network; None: it is trained.
    A finished round is not done again, and stays as it was configured then.
    """
    rounds = round_configs(context.config)
    here = context
    for number, config in enumerate(rounds, 1):
        here = replace(here, config=config, folder=_round_folder(context.folder, number, len(rounds)))
        if len(rounds) > 1:
            context.progress.stage("round", f"{number} of {len(rounds)}")
        finished = here.folder.survivors_table.is_file()
        if finished:
            _check_same_search(load_config(here.folder.config), config)
        elif number < len(rounds):
            go_on_in(here.folder, config)
        if number > 1 and not finished:
            space = discover(here.network, _probe_image(here.data.image_shape), config.space)
            here, weights = replace(here, space=space), FitState.before(here.network).weights
        model = stages.baseline(here, weights)
        if not finished:
            _carry_out_round(here, model, pool)
        if number < len(rounds):
            here = _handed_on(here, model)


def _carry_out_round(context: stages.RoundContext, model: nn.Module, pool: WorkerPool) -> None:
    """From a trained network to the survivors' table."""
    files.write_json(context.folder.space, context.space.to_dict())
    problem = stages.pose_problem(context, model)
    workers = pool.workers(problem)
    survivors = stages.search(context, problem, workers)
    retrained = stages.retrain(context, workers, survivors)
    stages.test(context, model, survivors, retrained)


def _handed_on(context: stages.RoundContext, model: nn.Module) -> stages.RoundContext:
    """The setting with the network that its finished round hands on, measured against the first round's."""
    finished = Run(context.folder.root)
    if finished.survivors.empty:
        context.progress.note(
            "no candidate stayed within search.tolerance: the next round starts from the same network"
        )
    reference = context.reference or stages.Reference(model, context.space, context.folder)
    return replace(context, network=finished.hand_on(model).cpu(), reference=reference)


def _round_folder(folder: RunFolder, number: int, rounds: int) -> RunFolder:
    """Where a round lies: the last one in the run's folder itself, the others below it."""
    return folder if number == rounds else folder.round(number)


def fresh_network(config: Config, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network, initialised from the config's seed alone."""
    generator = torch.Generator().manual_seed(mixed_seed(config.seed, NETWORK_SEED))
    return build_network(config.model.network, image_shape, classes, generator)


def _probe_image(image_shape: tuple[int, int, int]) -> Tensor:
    """An image for discovery: the same every time, so that a plan is too."""
    return torch.randn(1, *image_shape, generator=torch.Generator().manual_seed(0))


def _given_weights(config: Config, network: nn.Module) -> dict[str, Tensor] | None:
    """The weights that the config names, once they fit the network; None where it is to be trained."""
    source = config.model.weights
    if source is None:
        return None
    if source == "pretrained":
        name = config.model.network
        if not name.startswith(TORCHVISION):
            raise NetworkError(f"model.weights: pretrained goes with torchvision:NAME, not with {name}; give a file")
        weights = pretrained_weights(name.removeprefix(TORCHVISION))
        if isinstance(getattr(network, "colour", None), GreyToColour):
            weights = {f"network.{tensor}": value for tensor, value in weights.items()}
    else:
        weights = read_weights(Path(source), network)
    load_weights(network, weights, source)
    return weights


def go_on_in(folder: RunFolder, config: Config) -> None:
    """Makes the folder, or makes one that holds a run ready to go on: what the config has made stale is removed."""
    if folder.holds_run():
        stored = load_config(folder.config)
        _check_changes(folder, config)
        if _retraining_of(stored) != _retraining_of(config):
            drop_survivors(folder)
        files.remove([folder.survivors_table])
    create(folder)
    files.write_text(folder.config, dump_config(config))


def _retraining_of(config: Config) -> dict[str, Any]:
    """What a retrained survivor of the last round depends on, besides its genome."""
    settings = round_configs(config)[-1].retrain.model_dump(exclude={"survivors"})
    return settings | {"threads": config.workers.threads, "device": config.device}


def _results_of(config: Config) -> dict[str, Any]:
    """What a run's results depend on."""
    left_out = keys_with(Mark.NO_RESULT)
    return {key: value for key, value in flat_config(config).items() if key not in left_out}


def _reached(folder: RunFolder) -> int:
    """The last generation that the run in the folder has finished; 0 before there is one."""
    return max(folder.snapshot_generations(), default=0)


def _check_changes(folder: RunFolder, config: Config, reached: int | None = None) -> None:
    """Raises ConfigError where the config makes another search of the stored one, or one that ends too early.

    reached: the generation that the last round goes on from; None: the last one that it has finished.
    """
    _check_same_search(load_config(folder.config), config)
    rounds = round_configs(config)
    for number, settings in enumerate(rounds, 1):
        here = _round_folder(folder, number, len(rounds))
        if number < len(rounds) and here.survivors_table.is_file():
            continue  # a finished round stays as it is
        least = _reached(here) if reached is None or number < len(rounds) else reached
        if settings.search.generations < least:
            raise ConfigError(
                f"search.generations must be at least {least}, which this run has reached, not "
                f"{settings.search.generations}; branch off from an earlier generation with --generation and --out"
            )


def _check_same_search(stored: Config, config: Config) -> None:
    """Raises ConfigError where a key differs that makes another search."""
    before, after, may_change = flat_config(stored), flat_config(config), keys_with(Mark.MAY_CHANGE)
    for key, value in after.items():
        if before[key] != value and key not in may_change:
            raise ConfigError(
                f"{key} cannot change in a run that is resumed: it is {before[key]} there, not {value}; "
                "start another run with `evoprune run` and --out"
            )


def _branch(source: RunFolder, target: RunFolder, generation: int) -> RunFolder:
    """A new run folder that stands where another one stood after a generation."""
    if target.holds_run():
        raise RunFolderError(f"{target.root} holds a run; choose another folder with --out")
    config = load_config(source.config)
    space = SearchSpace.from_dict(files.read_json(source.space))
    read_snapshot(source, generation, stages.search_fingerprint(round_configs(config)[-1], space))
    copied = [path for earlier in source.rounds() for path in _table_last(earlier)]
    copied += [path for n in range(generation + 1) for path in (source.candidates(n), source.snapshot(n))]
    copied += [path for path in (source.latency, source.rewind) if path.is_file()]
    with locked(target) as held:
        create(held)
        files.write_text(held.config, dump_config(config))  # first: half a branch is a run, too, that goes on
        for path in (*copied, source.baseline, source.space, source.execution):
            files.write_bytes(held.same_place(path, source), files.read_bytes(path))
    return target


def _table_last(folder: RunFolder) -> list[Path]:
    """The files of a finished round, in an order in which what makes it finished comes last."""
    there = (path for path in folder.own_files() if path.is_file() and path != folder.survivors_table)
    return [*there, folder.survivors_table]
