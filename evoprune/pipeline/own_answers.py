"""Targets for data that have none: the answers of the unpruned network."""

import logging
from dataclasses import replace

import torch
from torch import nn

from evoprune.data.load import Data
from evoprune.data.splits import Split
from evoprune.networks.modes import eval_mode
from evoprune.tasks.judging import task_call
from evoprune.tasks.task import Task
from evoprune.tasks.trees import concatenated, moved

_BATCH = 250

logger = logging.getLogger(__name__)


def with_own_answers(data: Data, model: nn.Module, task: Task, device: torch.device) -> Data:
    """The data, in which the answers of a network stand in for the targets of every split that has none.

    Args:
        data: of a run.
        model: the unpruned network; it is on the CPU afterwards.
        task: turns outputs into answers.
        device: computes.

    Raises:
        DataError: the task cannot do without targets.
    """
    scored = {"train": data.train, "validation": data.validation}
    lacking = [name for name, split in scored.items() if split.targets is None and len(split)]
    if task.reads_targets and lacking:
        logger.warning(
            "the %s images have no labels: the unpruned network's own answers stand in for them", " and ".join(lacking)
        )
    return replace(
        data,
        train=_answered(data.train, model, task, device),
        calibration=_answered(data.calibration, model, task, device) if task.has_answers else data.calibration,
        validation=_answered(data.validation, model, task, device),
        test=_answered(data.test, model, task, device),
    )


def _answered(split: Split, model: nn.Module, task: Task, device: torch.device) -> Split:
    if split.targets is not None or not len(split):
        return split
    model.to(device)
    with torch.no_grad(), eval_mode(model), task_call(task, "answers"):
        batches = (split.batch(indices)[0] for indices in torch.arange(len(split)).split(_BATCH))
        answers = [moved(task.answers(model(images.to(device))), torch.device("cpu")) for images in batches]
    model.cpu()
    return replace(split, targets=concatenated(answers))
