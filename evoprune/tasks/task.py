"""The base class of tasks: a task alone knows the worth of a network's outputs."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evoprune.errors import DataError
from evoprune.tasks.trees import Tree, children_of, example_count, map_tensors, tensors_in

_IMAGES = ("image", "img", "images", "pixel_values")
_TARGETS = ("label", "labels", "target", "targets", "mask")
"""Usual names of the parts of a batch, as in the data sets of Hugging Face."""


class Task(ABC):
    """The worth of a network's outputs: their loss, their errors, and their distance from the unpruned network's.

    Outputs and targets are tensors, or tuples, lists or dicts of tensors, whose first dimension is the example. A
    subclass defines `loss` and `errors`; the other methods have defaults for any outputs. It is constructed with
    `task_options` as keyword arguments, and must be importable, because workers of other processes use it.

    Attributes:
        most_divergence: the divergence of an example whose outputs are not finite, and the largest of any other.
        fixed_by_moves: whether targets stay right if an image is cropped or flipped, as in `data.augment`.
        reads_targets: whether targets of the data are used; otherwise `answers` of the unpruned network always are, and
            a search compares with those of the unpruned network as it is scored, so that it has no errors.

    Example:
        >>> class Angles(ep.Task):
        ...     '''The angle of each object in radians; errors are shares of half a turn.'''
        ...     def loss(self, outputs, targets):
        ...         return (1 - torch.cos(outputs[:, 0] - targets)).mean()
        ...     def errors(self, outputs, targets):
        ...         return (1 - torch.cos(outputs[:, 0] - targets)) / 2
        >>> run = ep.evolve(model, images[:1], (images, angles), images, task=Angles, tolerance=0.01)
    """

    most_divergence: float = 100.0
    fixed_by_moves: bool = True
    reads_targets: bool = True

    @abstractmethod
    def loss(self, outputs: Tree, targets: Tree) -> Tensor:
        """The training loss: a scalar, the mean over the examples.

        Args:
            outputs: float, of the network in training mode, for n examples.
            targets: of the same examples.
        """

    @abstractmethod
    def errors(self, outputs: Tree, targets: Tree) -> Tensor:
        """The error of each example.

        Args:
            outputs: of n examples.
            targets: of the same examples.

        Returns:
            bool (n,), or float (n,) in 0..1. `search.tolerance` is a rise of their mean. An example with outputs that
            are not finite counts as 1, whatever is returned for it.
        """

    def summed_loss(self, outputs: Tree, targets: Tree) -> Tensor:
        """The sum of the loss over the examples: a scalar."""
        return self.loss(outputs, targets) * example_count(outputs)

    def reference(self, outputs: Tree) -> Tree:
        """The part of the unpruned network's outputs that `divergence` and `answers` read; by default, all."""
        return outputs

    def divergence(self, outputs: Tree, reference: Tree) -> Tensor:
        """The distance of each example's outputs from the unpruned network's.

        Args:
            outputs: of n examples.
            reference: of the same examples.

        Returns:
            float64 (n,), never negative, 0 for the same outputs; by default the mean squared difference. Larger values
            than `most_divergence` count as that.
        """
        return mean_squares(outputs, reference)

    def distillation_loss(self, outputs: Tree, teacher_outputs: Tree, temperature: float) -> Tensor:
        """The loss towards a teacher's outputs: a scalar, the mean over the examples.

        Args:
            outputs: of the trained network.
            teacher_outputs: of the teacher, for the same examples.
            temperature: `retrain.temperature`, which softens probabilities; other outputs do not need it.
        """
        squares = [
            functional.mse_loss(output, taught)
            for output, taught in zip(tensors_in(outputs), tensors_in(teacher_outputs), strict=True)
            if output.is_floating_point()
        ]
        return torch.stack(squares).mean()

    def answers(self, outputs: Tree) -> Tree:
        """The targets that outputs amount to: they stand in for targets that the data do not have.

        Raises:
            DataError: if this task cannot do without targets.
        """
        raise DataError(f"task: {task_name(self)} needs targets; give data that have them, or take like_teacher")

    @property
    def has_answers(self) -> bool:
        """Whether it can do without targets: it defines `answers`."""
        return type(self).answers is not Task.answers

    def margins(self, outputs: Tree, targets: Tree) -> Tensor:
        """The distance of each example from an error: float (n,). Those of the least margin are scored first."""
        return -self.errors(outputs, targets).double()

    def curvature_root(self, outputs: Tree, signs: Tree) -> Tree:
        """H^(1/2) z for the Hessian H of the summed loss by the outputs, without gradient; for the criterion obd.

        Args:
            outputs: of n examples.
            signs: z, a tree as `outputs`, of -1 and 1.

        Returns:
            A tree as `outputs`; by default, that of the squared difference: the signs themselves.
        """
        return signs

    def fitted(self, targets: Tree) -> "Task":
        """The task with what it takes from the validation targets (a scale); by default the task as it is."""
        return self

    def classes_of(self, targets: Tree) -> Tensor | None:
        """The class of each example, int64 (n,), if every example has one."""
        return None

    def outputs_needed(self, targets: Tree) -> int | None:
        """The number of outputs that a network for these targets needs, its `classes`; None if any may do."""
        return None

    def checked_targets(self, targets: Tree, name: str) -> Tree:
        """The targets as the other methods get them.

        Args:
            targets: as the data have them.
            name: of the split, for messages.

        Raises:
            DataError: they cannot be targets of this task.
        """
        return map_tensors(lambda tensor: tensor, targets)

    def check_outputs(self, outputs: Tree, targets: Tree, name: str) -> None:  # noqa: B027 (nothing is checked)
        """Checks that a network fits the task, and the targets fit the network.

        Args:
            outputs: of the network, for one example.
            targets: of a whole split; None if it has none.
            name: of the split, for messages.

        Raises:
            DataError: says how they must be.
        """

    def inputs_and_targets(self, batch: Any) -> tuple[Any, Tree | None]:
        """The images and the targets in a batch of a data set.

        By default, they are the two parts of a pair, images alone, or the two values of a mapping or data class with
        usual names (`image`, `img`, `images` or `pixel_values`; `label`, `labels`, `target`, `targets` or `mask`).

        Args:
            batch: as the data set or loader gives it.

        Raises:
            DataError: it is none of these.
        """
        if isinstance(batch, tuple | list) and len(batch) == 2:
            return batch[0], batch[1]
        parts = children_of(batch)
        if parts is None:
            return batch, None
        images, targets = ([name for name in names if name in parts] for names in (_IMAGES, _TARGETS))
        if len(images) == 1 and len(targets) <= 1:
            return parts[images[0]], parts[targets[0]] if targets else None
        raise DataError(
            f"a batch must be images, or a pair (images, targets), not a {type(batch).__name__} of {len(parts)} "
            f"({', '.join(map(str, parts))}); give a task whose inputs_and_targets picks them out"
        )


def mean_squares(outputs: Tree, others: Tree, scales: tuple[float, ...] = ()) -> Tensor:
    """The mean of squared differences of each example, over all tensors alike.

    Args:
        outputs: of n examples.
        others: a tree of the same shapes.
        scales: of each tensor, a unit for its differences; empty: 1.

    Returns:
        float64 (n,).
    """
    pairs = zip(tensors_in(outputs), tensors_in(others), strict=True)
    squares = [(output.double() - other.double()).square().reshape(len(output), -1).mean(1) for output, other in pairs]
    if scales:
        squares = [square / scale**2 for square, scale in zip(squares, scales, strict=True)]
    return torch.stack(squares).mean(0)


def task_name(task: object) -> str:
    """module:class of a task; the class alone of a built-in one."""
    kind = type(task)
    return kind.__qualname__ if kind.__module__.startswith("evoprune.") else f"{kind.__module__}:{kind.__qualname__}"
