"""The errors and divergences by which candidates are judged: a task's own, checked and bounded."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from evoprune.errors import ConfigError, UserError, type_and_first_line
from evoprune.plugins.guard import is_own, plugin_error
from evoprune.tasks.task import Task, task_name
from evoprune.tasks.trees import Tree, example_count, finite, map_tensors

_STEPS = 2.0**24
"""Shares are counted in this many steps, so that sums of them are exact in any order."""


@contextmanager
def task_call(task: Task, method: str) -> Iterator[None]:
    """Inside it, a method of a task is called: an exception of the user's own task becomes one that names the call.

    Raises:
        PluginError: the user's task raised an exception. Those of built-in tasks, and lack of memory, pass as they are.
    """
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not is_own(task_name(task)) or "allocate memory" in str(error):
            raise
        raise plugin_error("task", task_name(task), f"{method}()", f"failed ({type_and_first_line(error)})") from error


def errors_of(task: Task, outputs: Tree, targets: Tree) -> Tensor:
    """The error of each example; 1 if an output is not finite.

    Args:
        task: judges.
        outputs: of n examples.
        targets: of the same examples.

    Returns:
        bool (n,) of a task of right and wrong, else float64 (n,), a multiple of 2^-24, so that sums are exact.

    Raises:
        PluginError: names the task, if it fails or returns anything else than shares.
    """
    sound = finite(outputs)
    with task_call(task, "errors"):
        found = task.errors(outputs, targets)
    _check(task, "errors", found, len(sound))
    if found.dtype == torch.bool:
        return found | ~sound
    shares = torch.where(sound, found.detach().double(), 1.0)
    wrong = ~((shares >= 0) & (shares <= 1))
    if wrong.any():
        problem = f"must give shares from 0 to 1, not {float(shares[wrong][0]):g}"
        raise plugin_error("task", task_name(task), "errors()", problem)
    return _in_steps(shares)


def weighted(errors: Tensor, weights: Tensor) -> Tensor:
    """Errors times their weights, (n,) each: float64, rounded down to multiples of 2^-24, so that sums are exact."""
    return _in_steps(errors * weights)


def count_errors_of(task: Task, outputs: Tree, targets: Tree, weights: Tensor | None = None) -> float:
    """The sum of the errors of all examples: an int if each error is 0 or 1, and there are no weights.

    Args:
        task: judges.
        outputs: of n examples.
        targets: of the same examples.
        weights: float64 (n,), factors of the errors; None: 1.
    """
    errors = errors_of(task, outputs, targets)
    total: float = (errors if weights is None else weighted(errors, weights.to(errors.device))).sum().item()
    return total


def loss_of(task: Task, outputs: Tree, targets: Tree) -> Tensor:
    """The training loss, a scalar with its gradient. Raises PluginError that names the task, if it fails."""
    with task_call(task, "loss"):
        loss = task.loss(outputs, targets)
    if not isinstance(loss, Tensor) or loss.ndim:
        found = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        problem = f"must give a scalar tensor, the mean over examples, not {found}"
        raise plugin_error("task", task_name(task), "loss()", problem)
    return loss


def summed_loss_of(task: Task, outputs: Tree, targets: Tree) -> float:
    """The loss, summed over the examples in float64. Raises PluginError that names the task, if it fails."""
    with task_call(task, "loss"):
        return float(task.summed_loss(map_tensors(_as_double, outputs), targets))


def class_weights(task: Task, targets: Tree) -> Tensor:
    """Weights of examples with which their mean error is the mean over classes of each class's mean error.

    Returns:
        float64 (n,): n / (number of classes that occur * number of examples of this class).

    Raises:
        ConfigError: the task's examples have no classes.
    """
    classes = task.classes_of(targets)
    if classes is None:
        raise ConfigError(
            f"search.metric must be mcr with the task {task_name(task)}, not balanced: its examples have no classes"
        )
    counts = classes.bincount()
    return len(classes) / (int((counts > 0).sum()) * counts[classes].double())


def margins_of(task: Task, outputs: Tree, targets: Tree) -> Tensor:
    """The margin of each example, float (n,). Raises PluginError that names the task, as `errors_of`."""
    with task_call(task, "margins"):
        found = task.margins(outputs, targets)
    _check(task, "margins", found, example_count(outputs))
    return found


def divergences_of(task: Task, outputs: Tree, reference: Tree) -> Tensor:
    """The divergence of each example from the unpruned network.

    Args:
        task: judges.
        outputs: of n examples.
        reference: what `task.reference` gave for the same examples.

    Returns:
        float64 (n,), between 0 and `task.most_divergence`, which counts for outputs that are not finite.

    Raises:
        PluginError: names the task, if it fails or returns anything else than a number for each example.
    """
    most = task.most_divergence
    sound = finite(outputs)
    with task_call(task, "divergence"):
        found = task.divergence(outputs, reference)
    _check(task, "divergence", found, len(sound))
    return found.detach().double().masked_fill(~sound, most).nan_to_num(most, most).clamp(0, most)


def _as_double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _in_steps(shares: Tensor) -> Tensor:
    return (shares * _STEPS).floor() / _STEPS


def _check(task: Task, method: str, found: object, examples: int) -> None:
    if not isinstance(found, Tensor) or found.shape != (examples,):
        shape = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        problem = f"must give a number for each example, a tensor ({examples},), not {shape}"
        raise plugin_error("task", task_name(task), f"{method}()", problem)
