"""The search without a config file: a network and tensors in, a run out."""

import copy
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evoprune.config.loading import round_configs
from evoprune.config.schema import (
    Config,
    CriterionChoice,
    DataConfig,
    ModelConfig,
    RecordConfig,
    RetrainConfig,
    SearchConfig,
    SpaceConfig,
    TrainConfig,
    WorkersConfig,
)
from evoprune.criteria.registry import CRITERIA
from evoprune.data.images import ImageArray
from evoprune.data.load import Data
from evoprune.data.splits import Split
from evoprune.discovery.discover import discover
from evoprune.errors import DataError, RunFolderError
from evoprune.networks.modes import eval_mode
from evoprune.pipeline.run import carry_out, go_on_in, report
from evoprune.pipeline.stages import RoundContext
from evoprune.progress import Progress, SilentProgress
from evoprune.record.folder import RunFolder
from evoprune.record.lock import locked
from evoprune.record.places import is_remote, local_path
from evoprune.record.runs import Run
from evoprune.record.tensorboard import check_tensorboard, with_scalars
from evoprune.training.devices import resolve_device
from evoprune.training.fit import FitState
from evoprune.workers.workers import open_worker_pool

GIVEN = "given"
"""What a run's config says for a network and for data that were given as objects."""

Labelled = tuple[Tensor, Tensor] | Iterable[Any]
"""Images (n, c, h, w) and labels (n,), or what yields batches of them, such as a DataLoader."""


def evolve(
    model: nn.Module,
    example_input: Tensor,
    validation: Labelled,
    calibration: Tensor | Iterable[Any],
    tolerance: float = 0.02,
    *,
    train: Labelled | None = None,
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
    """Searches a trained classification network for smaller ones, and retrains the survivors where it can.

    model: trained; copied, never changed. example_input: as the network reads it, (1, c, h, w).
    validation: images as the network reads them, and labels: what candidates are scored on. calibration: images for
    batch-norm statistics and compensation, out of the training images, with labels where `search.criterion` looks at
    them. train: what survivors are retrained on;
    None: they stay as the search scored them. Each may be a DataLoader.
    tolerance: a fraction (0.02 is two percentage points), in the place of `search.tolerance`.
    space, search, retrain, workers, record: as in a config file, but without a report where record is None.
    out: the run folder, a new temporary one if None; where it holds an unfinished run of the
    same call, that one goes on.
    Returns the run; `run.load_survivor(key)` is a compacted network. There is no test set: `mcr_test` is missing.
    Raises SearchSpaceError, DataError, WorkerError, RunFolderError: ValueErrors of one line.
    """
    if is_remote(out):
        raise RunFolderError(f"out: must be a folder on this machine's disk, not {out}")
    images, labels = _labelled(validation, "validation")
    calibration_batches = _batches(calibration)
    calibration_images = _images(calibration_batches)
    training = _labelled(train, "train") if train is not None else (images[:0], labels[:0])
    settings = (retrain or RetrainConfig()).model_dump() | ({} if train is not None else {"epochs": 0})
    config = Config(
        name="evolve",
        seed=seed,
        device=device,
        data=DataConfig(dataset=GIVEN, validation=len(images), calibration=len(calibration_images)),
        model=ModelConfig(network=GIVEN),
        space=space or SpaceConfig(),
        search=SearchConfig.model_validate((search or SearchConfig()).model_dump() | {"tolerance": tolerance}),
        train=TrainConfig(),
        workers=workers or WorkersConfig(),
        retrain=RetrainConfig.model_validate(settings),
        record=record or RecordConfig(report=False),
    )
    network = copy.deepcopy(model).cpu().eval()
    classes = _count_classes(network, images, labels)
    plan = discover(model, example_input, round_configs(config)[0].space)
    calibration_labels = _calibration_labels(calibration_batches, len(calibration_images), config.search.criterion)
    channels, height, width = images.shape[1:]
    data = Data(
        train=_split(*training),
        calibration=_split(calibration_images, calibration_labels),
        validation=_split(images, labels),
        test=_split(images[:0], labels[:0]),
        classes=classes,
        image_shape=(channels, height, width),
    )
    folder = RunFolder(local_path(out) if out is not None else Path(tempfile.mkdtemp(prefix="evoprune-")))
    check_tensorboard(config)
    computing = resolve_device(device)
    shown = progress or SilentProgress()
    with open_worker_pool(config.workers, computing, shown.note) as pool, locked(folder) as held:
        go_on_in(held, config)
        with with_scalars(shown, config, held) as told:
            context = RoundContext(config, held, data, network, plan, computing, told)
            carry_out(context, FitState.before(model).weights, pool)
    run = Run(folder.root, network=copy.deepcopy(model))
    report(run, shown)
    return run


def _labelled(source: Labelled, what: str) -> tuple[Tensor, Tensor]:
    """All images (n, c, h, w) and labels (n,) of a pair of tensors or of batches."""
    batches: list[Any] = [source] if _is_pair(source) else list(source)
    if not batches or not all(_is_pair(batch) for batch in batches):
        raise DataError(f"{what} must be a pair of tensors (images, labels), or a DataLoader of such pairs")
    images = torch.cat([batch[0] for batch in batches]).detach().cpu()
    labels = torch.cat([batch[1] for batch in batches]).detach().cpu()
    if images.ndim != 4 or labels.ndim != 1 or len(images) != len(labels) or labels.is_floating_point():
        raise DataError(
            f"{what} must be images (n, channels, h, w) and whole labels (n,), not shapes {tuple(images.shape)} "
            f"and {tuple(labels.shape)} of {labels.dtype}"
        )
    return images, labels.long()


def _batches(source: Tensor | Iterable[Any]) -> list[Any]:
    """Batches of images, with or without labels; read once, for a DataLoader may shuffle."""
    return [source] if isinstance(source, Tensor) or _is_labelled(source) else list(source)


def _images(batches: Sequence[Any]) -> Tensor:
    """All images of batches with or without labels."""
    tensors = [batch if isinstance(batch, Tensor) else batch[0] for batch in batches]
    if not tensors or any(not isinstance(tensor, Tensor) or tensor.ndim != 4 for tensor in tensors):
        raise DataError("calibration must be images (n, channels, h, w), or a DataLoader of them")
    return torch.cat(tensors).detach().cpu()


def _calibration_labels(batches: Sequence[Any], count: int, criterion: CriterionChoice) -> Tensor:
    """The labels of `count` images, where every batch has some; else zeros, unless the criterion looks at them."""
    if all(_is_labelled(batch) for batch in batches):
        return torch.cat([batch[1] for batch in batches]).detach().cpu().long()
    if criterion != "auto" and CRITERIA[criterion].needs_labels:
        raise DataError(
            f"calibration must have labels where search.criterion is {criterion}, not images alone; "
            "give (images, labels) or a DataLoader of them, or take l1"
        )
    return torch.zeros(count, dtype=torch.int64)


def _is_labelled(value: Any) -> bool:
    return _is_pair(value) and value[1].ndim == 1


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, Tensor) for part in value)


def _split(images: Tensor, labels: Tensor) -> Split:
    """Images as they are, without normalisation: the network reads them so."""
    channels = images.shape[1]
    return Split(ImageArray(images.float()), labels, torch.zeros(channels), torch.ones(channels))


def _count_classes(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Runs the network on one image. Raises DataError where it cannot read it or has no logit for a label."""
    try:
        with torch.no_grad(), eval_mode(network):
            logits = network(images[:1].float())
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"the network cannot read validation images of shape {tuple(images.shape[1:])}: {reason}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise DataError("the network must give logits (n, classes) for images; wrap it where it gives anything else")
    if int(labels.max()) >= logits.shape[1] or int(labels.min()) < 0:
        raise DataError(
            f"validation labels must be 0..{logits.shape[1] - 1}, one of the network's logits each, "
            f"not {int(labels.min())}..{int(labels.max())}"
        )
    return logits.shape[1]
