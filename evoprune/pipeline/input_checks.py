"""Checks of a network and its data before the first stage: everything that a later stage reads.

Faults that make a run meaningless are refused; those that only make it suspicious are logged as warnings.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evoprune.config.schema import Config
from evoprune.criteria.importance_by_name import find_criterion
from evoprune.data.checks import check_split
from evoprune.data.load import Data
from evoprune.discovery.unrun import DID_NOT_RUN
from evoprune.errors import ConfigError, DataError, NetworkError, type_and_first_line
from evoprune.networks.modes import eval_mode
from evoprune.scoring.scorer import Problem
from evoprune.space.plan import Plan
from evoprune.space.tensors import check_changeable
from evoprune.tasks.judging import class_weights, task_call
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, tensors_in

logger = logging.getLogger(__name__)


def check_data(data: Data, task: Task, outputs: Tree) -> None:
    """Checks the pixels and targets of every split; warns of constant images and of classes without images.

    Args:
        data: of a run; splits may lack targets.
        task: judges outputs.
        outputs: of the network, for one image.

    Raises:
        DataError: names the split with pixels that are NaN or infinite, or with targets that do not fit the network;
            or the network does not fit the task.
    """
    with task_call(task, "check_outputs"):
        task.check_outputs(outputs, None, "")
    splits = {
        "train": data.train,
        "calibration": data.calibration,
        "validation": data.validation,
        "test": data.test,
    }
    for name, split in splits.items():
        labels = None
        if split.targets is not None and len(split):
            with task_call(task, "check_outputs"):
                task.check_outputs(outputs, split.targets, name)
            with task_call(task, "classes_of"):
                labels = task.classes_of(split.targets)
        classes = max(2, output_count(outputs)) if labels is not None else 0
        # few calibration images of many classes are usual, and enough for statistics of layers
        few = name == "calibration" and len(split) < classes
        # files have no NaN, data sets that are read lazily were checked; the search reads the others all anyway
        pixels = name in ("calibration", "validation") or split.images.held
        counted = None if few or labels is None else classes
        for warning in check_split(split, name, counted, labels=labels, pixels=pixels):
            logger.warning("%s", warning)
    if data.validation.targets is not None:
        with task_call(task, "fitted"):
            task.fitted(data.validation.targets)


def check_settings(rounds: Sequence[Config], data: Data, task: Task, outputs: Tree) -> None:
    """Checks that the settings of all rounds go with the task and the targets.

    Args:
        rounds: configs of the rounds.
        data: of the run.
        task: judges outputs.
        outputs: of the network, for one image.

    Raises:
        ConfigError: names the first key that does not.
    """
    config = rounds[0]
    for settings in rounds if data.calibration.targets is None and not task.has_answers else ():
        name = settings.search.criterion
        if name != "auto" and find_criterion(name).needs_labels:
            raise ConfigError(
                f"search.criterion must be one that reads no labels, such as l1, not {name}, because the calibration "
                "images have no targets; or give them"
            )
    if any(settings.search.metric == "balanced" for settings in rounds):
        targets = data.validation.targets
        class_weights(task, task.answers(outputs) if targets is None else targets)
    if config.data.augment and not task.fixed_by_moves:
        raise ConfigError(
            f"data.augment must be empty with the task {config.task}, not {list(config.data.augment)}, because targets "
            "are not moved with their images"
        )


def outputs_for_one(network: nn.Module, image: Tensor) -> Tree:
    """The network's outputs for one image (1, c, h, w). Raises DataError if it cannot read the image."""
    try:
        with torch.no_grad(), eval_mode(network):
            return network(image.float())
    except Exception as error:
        raise DataError(
            f"the network cannot read validation images of shape {tuple(image.shape[1:])} "
            f"({type_and_first_line(error)}); give images as it was trained on them"
        ) from error


def output_count(outputs: Tree) -> int:
    """The number of outputs for an image, the second size of the first tensor; 1 if it has none."""
    found = tensors_in(outputs)
    return int(found[0].shape[1]) if found and found[0].ndim > 1 else 1


def check_network(network: nn.Module, name: str, *, trains: bool) -> None:
    """Checks the types and values of a network's parameters and buffers, and that there is something to train.

    Args:
        name: of the network or its weights, for messages: `model.weights: w.pt`.
        trains: whether the network or its survivors are trained.

    Raises:
        NetworkError: names the first tensor with values that are NaN or infinite, the first parameter that is not of
            single precision, or the first entry that is no tensor, or says that no parameter can be trained.
        SearchSpaceError: the network is TorchScript, or has lazy layers without shapes.
    """
    check_changeable(network)
    for tensor_name, tensor in network.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise NetworkError(
                f"{name}: the state dict must hold tensors only, but {tensor_name!r} is a {type(tensor).__name__}, "
                "as in quantised layers; give the network before it was quantised"
            )
        bad = int((~tensor.isfinite()).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise NetworkError(
                f"{name}: tensor {tensor_name!r} must hold finite numbers, but {bad} of {tensor.numel()} are NaN or "
                "infinite; train the network again, or take an earlier checkpoint"
            )
    for parameter_name, parameter in network.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise NetworkError(
                f"{name}: parameters must be of type float32, but {parameter_name} is {_type(parameter)}; "
                "give model.float()"
            )
    if trains and not any(parameter.requires_grad for parameter in network.parameters()):
        raise NetworkError(
            f"{name}: no parameter has requires_grad, so nothing can be trained; unfreeze some, "
            "or set retrain.epochs to 0"
        )


def warn_of_unrun_parts(space: Plan) -> None:
    """Logs a warning if parts of the network did not run on the example input."""
    unrun = [part.name for part in space.frozen if part.reason == DID_NOT_RUN]
    if unrun:
        logger.warning(
            "%s did not run on the example input: nothing of it is pruned, and the feature maps that it may read stay",
            ", ".join(unrun[:5]) + (f" and {len(unrun) - 5} other parts" if len(unrun) > 5 else ""),
        )


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def warn_of_useless_baseline(problem: Problem) -> None:
    """Logs a warning if the baseline answers always the same class, or is no better than that on validation images."""
    labels = problem.task.classes_of(problem.targets)
    if problem.reference is None or labels is None or len(labels.unique()) < 2:
        return
    answers = problem.task.answers(problem.reference)
    mistakes = int((answers != labels).sum())
    by_frequency = len(labels) - int(torch.bincount(labels).max())
    if len(answers.unique()) == 1:
        logger.warning(
            "the baseline answers class %d for all %d validation images, so its search means nothing; "
            "check that it reads the images as it was trained on them",
            *(int(answers[0]), len(answers)),
        )
    elif mistakes >= by_frequency:
        logger.warning(
            "the baseline misclassifies %.1f%% of the validation images, no better than chance (%.1f%% by always "
            "answering the most frequent class); check that it is trained, and reads images as in training",
            *(100 * mistakes / len(answers), 100 * by_frequency / len(answers)),
        )
