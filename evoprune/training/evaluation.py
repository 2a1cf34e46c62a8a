"""Errors and loss of a network on a split."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evoprune.data.splits import Split
from evoprune.networks.modes import eval_mode
from evoprune.tasks.classification import Classification
from evoprune.tasks.judging import class_weights, count_errors_of, summed_loss_of, task_call
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, finite, moved, split
from evoprune.training.layout import lay_out


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """The images of each class, those that are right, and the answers: int64 (classes,), up to the last that occurs."""

    images: Tensor
    right: Tensor
    answers: Tensor

    @property
    def recalls(self) -> list[float]:
        """The share of each class's images that are right; NaN for a class without images."""
        shares: list[float] = (self.right.double() / self.images).tolist()
        return shares

    @property
    def worst_recall(self) -> float:
        """The least recall of the classes that have images."""
        return float((self.right.double() / self.images)[self.images > 0].min())


@dataclass(frozen=True)
class Evaluation:
    """Errors and loss of a network on a split.

    errors: sum of the errors of the images, an int if each is 0 or 1. images: number of all images. loss: the mean over
    the images (of classification the cross entropy, in nats); not finite if an output is not. classes: None if the task
    has none.
    """

    errors: float
    images: int
    loss: float
    classes: ClassCounts | None = None

    @property
    def mcr(self) -> float:
        """The mean error, 0..1: the misclassification rate."""
        return self.errors / self.images


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Split,
    device: torch.device,
    batch_size: int = 250,
    *,
    task: Task | None = None,
    balanced: bool = False,
) -> Evaluation:
    """Sums the errors of a network on a split and measures its loss.

    Args:
        model: moved to `device`; it computes in evaluation mode, and its mode afterwards is that of before.
        data: at least one image.
        device: computes.
        batch_size: number of images per forward pass.
        task: judges outputs; None: classification.
        balanced: whether all classes of the split count alike, however many images they have.
    """
    task = task or Classification()
    model.to(device)
    layout = lay_out(model, data.batch(torch.arange(min(2, len(data))))[0].to(device))
    weights = class_weights(task, data.targets) if balanced else None
    errors: float = 0
    loss, given = 0.0, []
    with eval_mode(model):
        for indices in torch.arange(len(data)).split(batch_size):
            images, targets = data.batch(indices)
            found, wanted = model(images.to(device, memory_format=layout)), moved(targets, device)
            errors += count_errors_of(task, found, wanted, None if weights is None else weights[indices])
            loss += summed_loss_of(task, found, wanted)
            given.append(_labels_and_answers(task, found, wanted))
    model.to(memory_format=torch.contiguous_format)
    return Evaluation(errors, len(data), loss / len(data), _class_counts([pair for pair in given if pair is not None]))


def _labels_and_answers(task: Task, outputs: Tree, targets: Tree) -> Tensor | None:
    """The class of each example and of the answer, -1 for outputs that are not finite: int64 (2, n), on the CPU."""
    labels = task.classes_of(targets) if task.has_answers else None
    if labels is None:
        return None
    with task_call(task, "answers"):
        answers = task.answers(outputs)
    answers = answers.masked_fill(~finite(outputs), -1)
    return torch.stack([labels, answers]).cpu()


def _class_counts(given: Sequence[Tensor]) -> ClassCounts | None:
    if not given:
        return None
    labels, answers = torch.cat(list(given), 1)
    parts = labels, labels[labels == answers], answers[answers >= 0]
    classes = int(torch.cat([labels, answers]).max()) + 1
    return ClassCounts(*(part.bincount(minlength=classes) for part in parts))


def count_errors(model: nn.Module, data: Split, device: torch.device, task: Task | None = None) -> float:
    """The sum of the model's errors on the split, as `evaluate` has it."""
    return evaluate(model, data, device, task=task).errors


def outputs(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tree]], device: torch.device
) -> Iterator[tuple[Tree, Tree]]:
    """The network's outputs for batches of images, and their targets.

    Args:
        network: on the device, in the mode in which it is to compute.
        batches: images (b, c, h, w) and their targets, anywhere.
        device: computes.

    Yields:
        Outputs and targets of each batch, on the device.
    """
    for images, targets in batches:
        yield network(images.to(device)), moved(targets, device)


def batches_of(images: Tensor, targets: Tree, size: int) -> Iterator[tuple[Tensor, Tree]]:
    """Cuts images (n, c, h, w) and targets into batches of `size`; the last one may be smaller."""
    return zip(images.split(size), split(targets, size), strict=True)
