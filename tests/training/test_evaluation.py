"""Errors and losses of networks whose logits are written down."""

import math

import pytest
import torch
from torch import nn

from evoprune.data.images import ImageArray
from evoprune.data.splits import Split
from evoprune.tasks.classification import Classification
from evoprune.tasks.judging import count_errors_of, errors_of, summed_loss_of
from evoprune.training.evaluation import (
    batches_of,
    count_errors,
    evaluate,
    outputs,
)

CPU = torch.device("cpu")


@pytest.fixture
def few() -> Split:
    """65 images of 8x8 in 3 classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (65, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(ImageArray(pixels), torch.arange(65) % 3, torch.tensor([0.5]), torch.tensor([0.3]))


class Fixed(nn.Module):
    """Gives the logits of a table, whatever the images."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.inner = nn.Dropout()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return self.logits[: len(images)]


def test_logits_that_are_not_finite_are_errors(few: Split) -> None:
    logits = nn.functional.one_hot(few.targets, 3).float()
    logits[3, few.targets[3]] = math.inf
    logits[4, (few.targets[4] + 1) % 3] = math.nan
    logits[5] = logits[5].roll(1)
    model = Fixed(logits)
    model.inner.eval()
    assert count_errors(model, few, CPU) == 3
    assert model.training
    assert not model.inner.training


def test_what_a_network_makes_of_a_split(few: Split) -> None:
    """Twice the weight on the label as on either of the others: probability 1/2; the last, on a wrong one."""
    logits = math.log(2) * nn.functional.one_hot(few.targets, 3).float()
    logits[-1] = logits[-1].roll(1)
    made = evaluate(Fixed(logits), few, CPU)
    assert (made.errors, made.images, made.mcr) == (1, len(few), 1 / len(few))
    assert made.loss == pytest.approx(((len(few) - 1) * math.log(2) + math.log(4)) / len(few))


def test_misclassified_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0], [0.0, 1.0], [math.nan, 9.0], [-math.inf, 9.0], [9.0, math.inf], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    assert errors_of(Classification(), logits, labels).tolist() == [False, True, True, True, True, False]
    assert count_errors_of(Classification(), logits, labels) == 4


def test_batches_give_the_sums_of_the_whole() -> None:
    """Softmax of (log 3, 0) is (3/4, 1/4)."""
    images = torch.tensor([[math.log(3), 0.0]] * 5)
    labels = torch.tensor([0, 0, 0, 0, 1])
    made = list(outputs(nn.Identity(), batches_of(images, labels, 2), CPU))
    assert [len(logits) for logits, _ in made] == [2, 2, 1]
    assert sum(count_errors_of(Classification(), *pair) for pair in made) == 1
    assert sum(summed_loss_of(Classification(), *pair) for pair in made) == pytest.approx(
        4 * math.log(4 / 3) + math.log(4)
    )
