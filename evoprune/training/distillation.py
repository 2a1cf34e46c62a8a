"""Distillation: a network is trained towards the outputs of another one, its teacher."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from evoprune.data.splits import Split
from evoprune.training.layout import lay_out

REMEMBERED_BYTES = 2**28
"""A teacher's logits for a whole split are kept if they take at most this many bytes."""

_BATCH = 250


class Teacher:
    """The logits of a network for the images of a split.

    If images are the same in every epoch, their logits are computed once for all networks that are trained: with small
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
        self._remembered: Tensor | None = None

    def logits(self, indices: Tensor, images: Tensor, same_every_epoch: bool) -> Tensor:
        """The logits for some images of the split.

        Args:
            indices: their positions in the split, int64 (b,).
            images: the images on the device, (b, c, h, w).
            same_every_epoch: whether they are as in the split, not augmented.

        Returns:
            float (b, classes), on the device.
        """
        if not same_every_epoch:
            return self._of(images)
        if self._remembered is None:
            logits = self._of(images)
            if logits[0].nbytes * len(self._split) > REMEMBERED_BYTES:
                return logits
            self._remembered = self._of_all()
        return self._remembered[indices].to(self._device)

    def _of_all(self) -> Tensor:
        """The logits of the whole split, on the CPU."""
        batches = torch.arange(len(self._split)).split(_BATCH)
        return torch.cat([self._of(self._split.batch(batch)[0].to(self._device)).cpu() for batch in batches])

    def _of(self, images: Tensor) -> Tensor:
        if self._layout is None:
            self._layout = lay_out(self._model, images)
        reduced = self._precision == "bfloat16"
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=reduced):
            return self._model(images.to(memory_format=self._layout)).float()


@dataclass(frozen=True, eq=False)
class Distillation:
    """A teacher, the weight (0..1) of its part of the loss, and the temperature that softens outputs."""

    teacher: Teacher
    weight: float
    temperature: float

    def loss(self, labels_loss: Tensor, logits: Tensor, taught: Tensor) -> Tensor:
        """(1 - weight) * labels_loss + weight * distillation_loss(logits, taught, temperature)."""
        return (1 - self.weight) * labels_loss + self.weight * distillation_loss(logits, taught, self.temperature)


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch.

    Args:
        logits: of the student, (b, classes).
        teacher_logits: (b, classes).
        temperature: T.

    References:
        Hinton, Vinyals and Dean 2015, section 2.
    """
    student = functional.log_softmax(logits / temperature, dim=1)
    wanted = functional.log_softmax(teacher_logits / temperature, dim=1)
    return functional.kl_div(student, wanted, reduction="batchmean", log_target=True) * temperature**2
