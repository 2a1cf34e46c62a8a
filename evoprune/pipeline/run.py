"""Runs from a config: begun, resumed, or looked at without a run."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from evoprune.config.loading import config_from_dict, load_config, refuse_untrusted, round_configs
from evoprune.config.schema import Config, SpaceConfig
from evoprune.data.load import image_shape_and_classes, load_data
from evoprune.discovery.discover import discover
from evoprune.errors import ConfigError, DataError, NetworkError, RunFolderError
from evoprune.networks.zoo import build_network
from evoprune.pipeline.carry_out import Experiment, carry_out, write_report
from evoprune.pipeline.configured import configured_task, fresh_network, given_weights, probe_image
from evoprune.pipeline.identity import check_identity, identity_of
from evoprune.pipeline.input_checks import (
    check_data,
    check_network,
    check_settings,
    outputs_for_one,
    warn_of_unrun_parts,
)
from evoprune.pipeline.plugin_checks import check_plugins
from evoprune.pipeline.resuming import branch, check_changes, is_finished
from evoprune.progress import Progress, SilentProgress
from evoprune.record.folder import RunFolder
from evoprune.record.lock import locked
from evoprune.record.places import is_remote, local_path
from evoprune.record.runs import Run, load_run, refuse_no_run
from evoprune.record.store import stored
from evoprune.record.tensorboard import check_tensorboard
from evoprune.space.summary import SpaceReport, space_report
from evoprune.training.devices import resolve_device
from evoprune.workers.protocol import WorkerPool

logger = logging.getLogger(__name__)


def run(
    config: str | Path | Config,
    overrides: Mapping[str, object] | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Runs an experiment from its config to its tables.

    Args:
        config: a YAML file, or a validated config.
        overrides: values by dotted key, such as {"search.population": 16}.
        out: the run folder, or its fsspec URL (s3://bucket/run); None: results/<name>.
        overwrite: replaces a run that is in the folder.
        progress: receives the progress of the run; None: nothing is shown.

    Returns:
        The finished run. `resume` goes on with a run that was interrupted.

    Raises:
        UserError: one line for a mistake in the config, the data, the network or the folder; nothing is written then.

    Example:
        >>> run = ep.run("experiments/quickstart.yaml", overrides={"search.population": 16}, out="results/q")
        >>> run.survivors[["key", "mcr_test", "macs_ratio"]]
    """
    resolved, progress = _resolved(config, overrides), progress or SilentProgress()
    if out is not None and is_remote(out):
        with stored(str(out), progress) as (copy, pushing):
            _refuse_run(RunFolder(copy), out, overwrite)
            return run(resolved, out=copy, overwrite=overwrite, progress=pushing)
    folder = RunFolder(local_path(out) if out is not None else Path("results") / resolved.name)
    _refuse_run(folder, folder.root, overwrite)
    _refuse_locked(folder)
    experiment = _prepared(resolved, round_configs(resolved), folder, progress, fresh=True)
    return _carried_out(experiment, folder, progress, fresh=True)


def resume(
    path: str | Path,
    overrides: Mapping[str, object] | None = None,
    *,
    generation: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Goes on with a run from where it stopped; a finished stage or round is not done again.

    Args:
        path: the run folder, or its fsspec URL.
        overrides: values by dotted key, of keys that do not make another search (more `search.generations` carry a
            finished search on). Keys by which the run runs code, reads files or joins a cluster are
            repeated, because the folder may come from somebody else; `model.weights` only until the baseline is
            written.
        generation: branches off after this generation of the last round; goes with `out`.
        out: the folder of the branch.
        progress: receives the progress of the run; None: nothing is shown.

    Returns:
        The finished run.

    Raises:
        UserError: one line if the folder holds no run, or a change makes another search.

    Example:
        >>> run = ep.resume("results/q", overrides={"search.generations": 16})
    """
    progress = progress or SilentProgress()
    if is_remote(path):
        with stored(str(path), progress) as (copy, pushing):
            refuse_no_run(RunFolder(copy), path)
            return resume(copy, overrides, generation=generation, out=out, progress=pushing)
    if is_remote(out):
        raise ConfigError(f"out: a branch's folder must be on this machine's disk, not {out}")
    target = None if out is None else RunFolder(local_path(out))
    folder = RunFolder(load_run(path).root)
    if outer := folder.round_of():
        raise RunFolderError(f"{path} is a round of the run {outer.root}; go on with `evoprune resume {outer.root}`")
    stored_config, named = load_config(folder.config), overrides or {}
    # a file of weights that the folder names is read only if it is needed, or if the user repeats it
    reads_weights = "model.weights" in named or not _is_trained(folder, round_configs(stored_config))
    refuse_untrusted(stored_config, folder.config, named, unused=() if reads_weights else {"model.weights"})
    config = load_config(folder.config, overrides)
    rounds = round_configs(config)
    check_changes(folder, config, rounds, generation)
    if (generation is None) != (out is None):
        raise ConfigError("generation and out go together: name the generation and the folder of the branch")
    if generation is None and is_finished(folder, config):
        return _finished(config, folder, reads_weights=reads_weights)
    if generation is None:
        _refuse_locked(folder)
    experiment = _prepared(config, rounds, folder, progress, fresh=False, reads_weights=reads_weights)
    if generation is not None and target is not None:
        source, folder = folder, target
        branch(source, folder, generation)
    return _carried_out(experiment, folder, progress, fresh=False)


def run_or_resume(config: Config, folder: RunFolder, progress: Progress, pool: WorkerPool | None = None) -> Run:
    """The config's run in this folder: started, resumed, or read if it is finished.

    Args:
        pool: the workers; None: those that the config asks for.

    Raises:
        UserError: as `run` and `resume`.
    """
    rounds, fresh = round_configs(config), not folder.holds_run()
    if not fresh:
        check_changes(folder, config, rounds)
        if is_finished(folder, config):
            return _finished(config, folder)
    _refuse_locked(folder)
    experiment = _prepared(config, rounds, folder, progress, fresh=fresh)
    return _carried_out(experiment, folder, progress, fresh=fresh, pool=pool)


def _is_trained(folder: RunFolder, rounds: tuple[Config, ...]) -> bool:
    """Whether the run folder has the baseline's weights."""
    return folder.of_round(1, len(rounds)).baseline.is_file()


def _finished(config: Config, folder: RunFolder, *, reads_weights: bool = True) -> Run:
    """A finished run. Raises ConfigError if its weights or data have changed since."""
    try:
        data = load_data(config.data, config.seed, configured_task(config))
    except DataError as error:  # nothing is to be computed, so the data are not needed
        logger.warning("it could not be checked that the data of %s are still the same: %s", folder.root, error)
        return load_run(folder.root)
    network = fresh_network(config, data.image_shape, data.classes)
    weights = _weights(config, network, data.image_shape, trained=True) if reads_weights else None
    check_identity(folder, identity_of(data, weights))
    return load_run(folder.root)


def _weights(
    config: Config, network: nn.Module, image_shape: tuple[int, int, int], *, trained: bool
) -> dict[str, Tensor] | None:
    """The weights that the config names, loaded into the network; None if it names none.

    Args:
        trained: the run folder has the baseline's weights, so that those of the config are only compared, and may be
            missing.
    """
    try:
        return given_weights(config, network, image_shape)
    except NetworkError as error:
        if not trained or Path(config.model.weights or "").expanduser().is_file():
            raise
        logger.warning("it could not be checked that the weights are still the same: %s", error)
        return None


def inspect(config: str | Path | Config, overrides: Mapping[str, object] | None = None) -> SpaceReport:
    """The search space of a config: layers, groups, genes, MACs, parameters. Nothing is trained or written.

    The usual data sets need not be there. Of a config with rounds, this is the first round's search space; the
    others depend on the networks handed on to them.
    """
    settings = round_configs(_resolved(config, overrides))[0]
    image_shape, classes = image_shape_and_classes(settings.data, configured_task(settings))
    network = fresh_network(settings, image_shape, classes)
    return space_report(settings.model.network, discover(network, probe_image(image_shape), settings.space))


def inspect_network(network: str, image_shape: tuple[int, int, int], classes: int) -> SpaceReport:
    """The search space of a network by name (layer string, zoo, torchvision:NAME, module:attribute).

    Args:
        image_shape: (c, h, w) of the images that the network reads.
        classes: number of classes.
    """
    model = build_network(network, image_shape, classes, torch.Generator().manual_seed(0))
    return space_report(network, discover(model, probe_image(image_shape), SpaceConfig()))


def _resolved(config: str | Path | Config, overrides: Mapping[str, object] | None) -> Config:
    if isinstance(config, Config):
        return config_from_dict(config.model_dump(mode="json"), overrides) if overrides else config
    return load_config(config, overrides)


def _refuse_run(folder: RunFolder, place: str | Path, overwrite: bool) -> None:
    """Raises RunFolderError if the folder holds a run that is to stay. place: the folder as the user named it."""
    if folder.holds_run() and not overwrite:
        raise RunFolderError(
            f"{place} holds a run; go on with it by `evoprune resume {place}`, or replace it by --overwrite"
        )


def _refuse_locked(folder: RunFolder) -> None:
    """Raises RunFolderError now, not after the workers have started, if another process works on the run."""
    if folder.holds_run():
        with locked(folder):
            pass


def _prepared(
    config: Config,
    rounds: tuple[Config, ...],
    folder: RunFolder,
    progress: Progress,
    *,
    fresh: bool,
    reads_weights: bool = True,
) -> Experiment:
    """Reads the data, builds the network and its search space, and checks all of it before anything is written.

    Args:
        fresh: the run does not go on with the one in the folder.
        reads_weights: the weights that the config names are read; otherwise the folder has the baseline's.
    """
    check_tensorboard(config)
    check_plugins(rounds)
    device = resolve_device(config.device)
    progress.stage("data", config.data.dataset)
    task = configured_task(config)
    data = load_data(config.data, config.seed, task)
    if data.train.targets is None and not config.model.is_trained:
        raise DataError(
            "model.weights must name trained weights with data without labels, because the network cannot be trained "
            "on them; give a file of weights, or labels"
        )
    network = fresh_network(config, data.image_shape, data.classes)
    weights = None
    if reads_weights:
        trained = not fresh and _is_trained(folder, rounds)
        weights = _weights(config, network, data.image_shape, trained=trained)
    named = f"weights: {config.model.weights}" if config.model.weights else f"network: {config.model.network}"
    trains = not config.model.is_trained or any(settings.retrain.epochs for settings in rounds)
    check_network(network, f"model.{named}", trains=trains)
    outputs = outputs_for_one(network, data.validation.batch(torch.arange(1))[0])
    check_data(data, task, outputs)
    check_settings(rounds, data, task, outputs)
    identity = identity_of(data, weights)
    if not fresh:
        check_identity(folder, identity)
    progress.stage("space", config.model.network)
    # later rounds search smaller networks, but their space sections are checked before anything is written
    space, *_ = [discover(network, probe_image(data.image_shape), settings.space) for settings in rounds]
    warn_of_unrun_parts(space)
    given = weights if config.model.is_trained else None
    return Experiment(config, rounds, data, network, given, space, device, identity, task)


def _carried_out(
    experiment: Experiment, folder: RunFolder, progress: Progress, *, fresh: bool, pool: WorkerPool | None = None
) -> Run:
    """Runs the experiment in the folder. fresh: a run in the folder is replaced."""
    carry_out(experiment, folder, progress, fresh=fresh, pool=pool)
    finished = load_run(folder.root)
    write_report(finished, progress)
    progress.stage("done", str(folder.root))
    return finished
