"""The search without a config file: a network and tensors in, a run out."""

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from evoprune.config.loading import config_from_dict, round_configs
from evoprune.config.schema import Config, RecordConfig, RetrainConfig, SearchConfig, SpaceConfig, WorkersConfig
from evoprune.discovery.discover import discover
from evoprune.errors import ConfigError, DataError, NetworkError, RunFolderError, SearchSpaceError
from evoprune.networks.modes import eval_mode
from evoprune.pipeline.carry_out import Experiment, carry_out, write_report
from evoprune.pipeline.given_data import Examples, GivenData
from evoprune.pipeline.identity import identity_of
from evoprune.pipeline.input_checks import (
    check_data,
    check_network,
    check_settings,
    output_count,
    outputs_for_one,
    warn_of_unrun_parts,
)
from evoprune.pipeline.plugin_checks import check_plugins
from evoprune.plugins.kinds import REGISTRIES
from evoprune.progress import Progress, SilentProgress
from evoprune.record.folder import RunFolder
from evoprune.record.places import is_remote, local_path
from evoprune.record.runs import Run
from evoprune.record.tensorboard import check_tensorboard
from evoprune.space.tensors import check_changeable, copied
from evoprune.tasks.task import Task
from evoprune.tasks.tasks_by_name import Classification, LikeTeacher, described, make_task
from evoprune.training.devices import resolve_device
from evoprune.training.fit import FitState

Plugin = str | Callable[..., Any] | None
"""A plug-in's name, or one's own function or class; None: as the section of the config has it."""

GIVEN = "given"
"""The network's and the data set's name in the config of a run that was given them as objects."""

_SECTIONS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "space": SpaceConfig,
        "search": SearchConfig,
        "retrain": RetrainConfig,
        "workers": WorkersConfig,
        "record": RecordConfig,
    }
)

logger = logging.getLogger(__name__)


def evolve(
    model: nn.Module,
    example_input: Tensor,
    validation: Examples,
    calibration: Examples,
    *,
    tolerance: float | None = None,
    train: Examples | None = None,
    task: str | Task | type[Task] | None = None,
    task_options: Mapping[str, Any] | None = None,
    criterion: Plugin = None,
    algorithm: Plugin = None,
    cost: Plugin = None,
    recipe: Plugin = None,
    space: SpaceConfig | None = None,
    search: SearchConfig | None = None,
    retrain: RetrainConfig | None = None,
    workers: WorkersConfig | None = None,
    record: RecordConfig | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Searches a trained network for smaller ones, and retrains the survivors.

    Each of `validation`, `calibration` and `train` may be a pair of tensors, a Dataset or a DataLoader, with images as
    the network reads them; a task picks images and targets out of batches of any structure
    (`ep.Task.inputs_and_targets`). All of it is read into memory, but for training images that take more than 2 GiB,
    which are read when they are needed if their data set has `__getitem__`. There is no test set: `mcr_test` is missing
    in the tables.

    Args:
        model: a trained network; copied, never changed. Without a `task`, it gives logits (n, classes).
        example_input: an input as the network reads it, (1, c, h, w).
        validation: images (n, c, h, w) and their labels or targets, that candidates are scored on; or images alone,
            then the network's own answers stand in for labels.
        calibration: some of the training images, for batch-norm statistics and compensation; labels are optional.
        tolerance: the same as `search.tolerance`: the rise in misclassification rate (in other tasks, in the mean
            error) that a survivor may have, a fraction (0.02 is two percentage points).
        train: images and targets that survivors are retrained on; None: they stay as the search scored them.
        task: what the outputs are worth: the name of a task (`segmentation`), an `ep.Task` or a class of one; None:
            classification.
        task_options: options of a task that is given by its name or class.
        criterion, algorithm, cost, recipe: the same as `search.criterion`, `search.algorithm`, `search.cost` and
            `retrain.recipe`: a name, or one's own function or class at the top level of a module.
        space: as the section of a config file, as are `search`, `retrain`, `workers` and `record`; by default, no
            report is written.
        device: auto, cpu, cuda or cuda:N.
        seed: of every random draw.
        out: the run folder; None: a new temporary one. An unfinished run of the same call in it is resumed.
        progress: receives the progress of the run; None: nothing is shown.

    Returns:
        The finished run; `run.load_survivor(key)` is a compacted network.

    Raises:
        UserError: one line for a mistake in the network, the data, the settings or the folder.

    Example:
        >>> run = ep.evolve(model, images[:1], (images, labels), calibration=train_images, tolerance=0.01)
        >>> small = run.load_survivor(run.survivors["key"].iloc[0])
    """
    if not isinstance(out, str | Path | None):
        raise RunFolderError(f"out: must be a folder, not a {type(out).__name__}")
    if is_remote(out):
        raise RunFolderError(f"out: must be a folder on this machine's disk, not {out}")
    place = None if out is None else local_path(out)
    if not isinstance(example_input, Tensor) or example_input.ndim != 4 or not len(example_input):
        found = tuple(example_input.shape) if isinstance(example_input, Tensor) else type(example_input).__name__
        raise DataError(f"example_input must be a tensor (1, c, h, w), as the network reads it, not {found}")
    judge = None if task is None else _task_of(task, task_options)
    given = GivenData.read(validation, calibration, train, judge or Classification())
    network = _copied(model)
    judge = judge or (Classification() if given.validation[1] is not None else _unlabelled_task(network, example_input))
    given = given.with_targets_of(judge)
    sections = {"space": space, "search": search, "retrain": retrain, "workers": workers, "record": record}
    reference, options = described(judge)
    others = {"seed": seed, "device": device, "task": reference, "task_options": options or None}
    plugins = {"search.criterion": criterion, "search.algorithm": algorithm, "search.cost": cost}
    config = _config(sections, tolerance, plugins | {"retrain.recipe": recipe}, given, others)
    check_tensorboard(config)
    rounds = round_configs(config)
    check_plugins(rounds)
    trains = any(settings.retrain.epochs for settings in rounds)
    if trains and given.train is None:
        raise ConfigError("search.rounds: retrain.epochs must be 0 without training images; give them as train=")
    check_network(network, "model", trains=trains)
    outputs = outputs_for_one(network, given.validation[0].read(torch.arange(1)))
    data = given.splits(output_count(outputs))
    check_data(data, judge, outputs)
    check_settings(rounds, data, judge, outputs)
    # later rounds search smaller networks, but their space sections are checked before anything is written
    plan, *_ = [discover(network, example_input, settings.space) for settings in rounds]
    warn_of_unrun_parts(plan)
    weights = FitState.before(network).weights
    identity = identity_of(data, weights)
    computes_on = resolve_device(config.device)
    experiment = Experiment(config, rounds, data, network, weights, plan, computes_on, identity, judge)
    folder, progress = _folder(place), progress or SilentProgress()
    carry_out(experiment, folder, progress)
    run = Run(folder.root, network=_copied(model))
    write_report(run, progress)
    return run


def _task_of(task: str | Task | type[Task], options: Mapping[str, Any] | None) -> Task:
    """The task that was given as a name, an object or a class. Raises ConfigError, PluginError."""
    if isinstance(task, Task):
        if options:
            raise ConfigError("task_options must be None with a task that is an object; give it its options")
        return task
    if isinstance(task, type) and not issubclass(task, Task):
        raise ConfigError(f"task must be a task's name or an ep.Task, not {task.__name__}")
    return make_task(task if isinstance(task, str) else described(task)[0], options)


def _config(
    sections: Mapping[str, Any],
    tolerance: float | None,
    plugins: Mapping[str, Plugin],
    given: GivenData,
    others: Mapping[str, object],
) -> Config:
    """The run's config. Raises ConfigError, one line, for the first value that is not valid."""
    settings = {name: _set_values(section, name) for name, section in sections.items() if section is not None}
    search, retrain = settings.setdefault("search", {}), settings.setdefault("retrain", {})
    if tolerance is not None:
        if "tolerance" in search and search["tolerance"] != tolerance:
            raise ConfigError(
                f"tolerance is given twice, as tolerance={tolerance} and as search.tolerance {search['tolerance']}; "
                "give it once"
            )
        search["tolerance"] = tolerance
    for key, plugin in plugins.items():
        if plugin is not None:
            section, _, name = key.partition(".")
            settings[section][name] = REGISTRIES[key].reference(plugin)
    if given.train is None:
        if retrain.get("epochs"):
            logger.warning(
                "retrain.epochs is %s, but there are no training images: survivors are not retrained; give train=",
                retrain["epochs"],
            )
        retrain["epochs"] = 0
    settings.setdefault("record", {"report": False})
    sizes = {"validation": len(given.validation[0]), "calibration": len(given.calibration[0])}
    fixed = {"name": "evolve", "data": {"dataset": GIVEN, **sizes}, "model": {"network": GIVEN}}
    return config_from_dict({**fixed, **others, **settings}, source="evolve")


def _set_values(section: Any, name: str) -> dict[str, Any]:
    """The values of a section that were set, by key; a mapping stands for a section."""
    if isinstance(section, _SECTIONS[name]):
        return section.model_dump(mode="json", exclude_unset=True)
    if isinstance(section, Mapping):
        return dict(section)
    raise ConfigError(f"{name} must be an ep.{_SECTIONS[name].__name__}, not a {type(section).__name__}")


def _folder(place: Path | None) -> RunFolder:
    if place is not None:
        return RunFolder(place)
    folder = RunFolder(local_path(tempfile.mkdtemp(prefix="evoprune-")))
    logger.warning("the run is kept in %s, a temporary folder; choose another one with out=", folder.root)
    return folder


def _copied(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode, of the network that was compiled or parallelised, if it was.

    Raises NetworkError if it is no module, or cannot be copied.
    """
    inner: Any = model
    while hasattr(inner, "_orig_mod") or isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = inner._orig_mod if hasattr(inner, "_orig_mod") else inner.module
    if not isinstance(inner, nn.Module):
        raise NetworkError(f"model must be a torch.nn.Module, not a {type(inner).__name__}; give a trained network")
    if isinstance(inner, torch.jit.ScriptModule):
        raise NetworkError("model must be a plain torch.nn.Module, not a compiled ScriptModule; give the original one")
    try:
        return copied(inner).cpu().eval()
    except SearchSpaceError as error:
        raise NetworkError(f"model: {error}") from error


def _unlabelled_task(network: nn.Module, example: Tensor) -> Task:
    """The task if none is named and there are no labels: classification, or like_teacher if there are no logits."""
    check_changeable(network)
    try:
        with torch.no_grad(), eval_mode(network):
            outputs = network(example[:1].float())
    except Exception:  # reported by the checks of the network and of the data
        return Classification()
    if isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] > 1:
        return Classification()
    logger.warning(
        "the data have no labels and the network gives no logits (n, classes): its own outputs are the targets, with a "
        "tenth of their deviation as tolerance; task=like_teacher with task_options sets another"
    )
    return LikeTeacher()
