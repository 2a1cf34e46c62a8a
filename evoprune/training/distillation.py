"""Distillation: a network is trained towards the outputs of another one, its teacher."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evoprune.data.splits import Split
from evoprune.tasks.judging import task_call
from evoprune.tasks.task import Task
from evoprune.tasks.trees import Tree, as_floats, concatenated, moved, select, tensors_in
from evoprune.training.layout import lay_out

REMEMBERED_BYTES = 2**28
"""A teacher's outputs for a whole split are kept if they take at most this many bytes."""

_BATCH = 250


class Teacher:
    """The outputs of a network for the images of a split.

    If images are the same in every epoch, their outputs are computed once for all networks that are trained: with small
    networks, computing them takes up to two fifths of the time of training.

    Args:
        model: moved to the device, in evaluation mode.
        split: the images that networks are trained on.
        device: computes.
        precision: of the products, as in `TrainConfig`.
    """

    def __init__(self, model: nn.Module, split: Split, device: torch.device, precision: str):
        self._model = model.to(device).eval()
        self._split = split
        self._device = device
        self._precision = precision
        self._layout: torch.memory_format | None = None
        self._remembered: Tree | None = None

    def outputs(self, indices: Tensor, images: Tensor, same_every_epoch: bool) -> Tree:
        """The outputs for some images of the split.

        Args:
            indices: their positions in the split, int64 (b,).
            images: the images on the device, (b, c, h, w).
            same_every_epoch: whether they are as in the split, not augmented.

        Returns:
            Float tensors are float32; all are on the device.
        """
        if not same_every_epoch:
            return self._of(images)
        if self._remembered is None:
            outputs = self._of(images)
            if sum(tensor[0].nbytes for tensor in tensors_in(outputs)) * len(self._split) > REMEMBERED_BYTES:
                return outputs
            self._remembered = self._of_all()
        return moved(select(self._remembered, indices), self._device)

    def _of_all(self) -> Tree:
        """The outputs for the whole split, on the CPU."""
        cpu, batches = torch.device("cpu"), torch.arange(len(self._split)).split(_BATCH)
        return concatenated([moved(self._of(self._split.batch(batch)[0].to(self._device)), cpu) for batch in batches])

    def _of(self, images: Tensor) -> Tree:
        if self._layout is None:
            self._layout = lay_out(self._model, images)
        reduced = self._precision == "bfloat16"
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=reduced):
            return as_floats(self._model(images.to(memory_format=self._layout)))


@dataclass(frozen=True, eq=False)
class Distillation:
    """A teacher, the weight (0..1) of its part of the loss, and the temperature that softens outputs."""

    teacher: Teacher
    weight: float
    temperature: float

    def loss(self, task: Task, targets_loss: Tensor, outputs: Tree, taught: Tree) -> Tensor:
        """(1 - weight) * targets_loss + weight * the task's distillation loss."""
        with task_call(task, "distillation_loss"):
            towards_teacher = task.distillation_loss(outputs, taught, self.temperature)
        return (1 - self.weight) * targets_loss + self.weight * towards_teacher
