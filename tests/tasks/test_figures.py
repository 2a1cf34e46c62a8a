"""The figures of each task by hand."""

import math

import pytest
import torch

from evoprune.errors import ConfigError, DataError
from evoprune.tasks.judging import class_weights, count_errors_of, errors_of
from evoprune.tasks.tasks_by_name import Binary, Classification, LikeTeacher, Multilabel, Regression, Segmentation

LN2 = math.log(2)


def test_binary_by_hand() -> None:
    logits, targets = torch.tensor([[0.5], [-0.5], [2.0], [0.0]]), torch.tensor([1, 1, 0, 0])
    assert Binary().errors(logits, targets).tolist() == [False, True, True, False]
    assert float(Binary().loss(torch.zeros(4, 1), targets)) == pytest.approx(LN2)
    # p = 1/2 against q = 3/4: 1/2 ln(2/3) + 1/2 ln 2
    apart = Binary().divergence(torch.tensor([[math.log(3)]]), Binary().reference(torch.zeros(1, 1)))
    assert apart.tolist() == pytest.approx([0.5 * math.log(2 / 3) + 0.5 * LN2])
    assert Binary().margins(logits, targets).tolist() == [0.5, -0.5, -2.0, 0.0]


def test_multilabel_by_hand() -> None:
    logits, targets = torch.tensor([[1.0, -1.0, 2.0, 3.0]]), torch.tensor([[1, 1, 0, 1]])
    assert Multilabel().errors(logits, targets).tolist() == [0.5]
    assert float(Multilabel().loss(torch.zeros(1, 4), targets)) == pytest.approx(LN2)
    zeros = Multilabel().reference(torch.zeros(1, 2))
    apart = Multilabel().divergence(torch.full((1, 2), math.log(3)), zeros)
    assert apart.tolist() == pytest.approx([math.log(2 / 3) + LN2])


def test_segmentation_by_hand() -> None:
    """Of four pixels one is ignored and one of the other three is wrong; of two, all are ignored."""
    answers = torch.tensor([[[0, 1], [1, 1]], [[0, 1], [0, 1]]])
    outputs = torch.nn.functional.one_hot(answers, 2).movedim(-1, 1).float()
    masks = torch.tensor([[[0, 1], [0, 9]], [[9, 9], [9, 9]]])
    task = Segmentation(ignore_index=9)
    assert errors_of(task, outputs, masks).tolist() == pytest.approx([1 / 3, 0], abs=1e-7)
    assert Segmentation().errors(outputs[:1], torch.tensor([[[0, 1], [1, 1]]])).tolist() == [0]
    assert float(task.loss(torch.zeros(2, 2, 2, 2), masks)) == pytest.approx(LN2)  # the mean over three pixels
    one_logit = (2.0 * answers - 1)[:, None]
    assert task.errors(one_logit, masks).tolist() == pytest.approx([1 / 3, 0])
    assert torch.equal(task.answers(one_logit), answers)
    assert task.outputs_needed(masks) == 2
    assert torch.equal(task.checked_targets(masks[:, None].float(), "train"), masks)


def test_regression_by_hand() -> None:
    """Variance 4 and 1: of differences 1 and 0.5, the mean of 1/4 and 1/4; a difference of 9 is clipped to 1."""
    targets = torch.tensor([[0.0, 0.0], [4.0, 2.0]])
    task = Regression().fitted(targets)
    outputs = torch.tensor([[1.0, 0.5], [13.0, 2.0]])
    assert task.errors(outputs, targets).tolist() == pytest.approx([0.25, 1])
    assert task.divergence(outputs, targets).tolist() == pytest.approx([0.25, 81 / 8])
    means = targets.mean(0).expand(2, 2)
    assert float(task.errors(means, targets).mean()) == pytest.approx(1)
    one = Regression().fitted(torch.tensor([0.0, 4.0]))
    assert one.errors(torch.tensor([[1.0], [4.0]]), torch.tensor([0.0, 4.0])).tolist() == [0.25, 0]
    with pytest.raises(DataError, match="must vary"):
        Regression().fitted(torch.ones(4, 2))


def test_like_teacher_by_hand() -> None:
    """Of six outputs of two tensors, one is farther away than 0.5, and one is another whole number."""
    wanted = {"a": torch.zeros(1, 4), "b": (torch.tensor([[1, 2]]),)}
    outputs = {"a": torch.tensor([[0.4, -0.5, 0.6, 0.0]]), "b": (torch.tensor([[1, 3]]),)}
    assert LikeTeacher(tolerance=0.5).errors(outputs, wanted).tolist() == pytest.approx([2 / 6])
    scaled = LikeTeacher().fitted({"a": torch.tensor([[0.0], [2.0]])})  # deviation 1: a tolerance of 0.1
    assert scaled.errors({"a": torch.tensor([[0.09], [0.11]])}, {"a": torch.zeros(2, 1)}).tolist() == [0, 1]


def test_balanced_weights_by_hand() -> None:
    """Three of one class and one of another: an error of the rare one weighs 4 / (2 * 1)."""
    labels = torch.tensor([0, 0, 0, 2])
    weights = class_weights(Classification(), labels)
    assert weights.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    always = torch.tensor([[1.0, 0, 0]]).expand(4, 3)
    assert count_errors_of(Classification(), always, labels, weights) == 2  # a mean of one half
    assert count_errors_of(Classification(), always, labels) == 1
    with pytest.raises(ConfigError, match=r"search\.metric must be mcr with the task Regression"):
        class_weights(Regression(), torch.rand(4, 1))
