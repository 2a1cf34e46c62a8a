"""Distillation: what is taught, and that it is the same whether a teacher remembers it or not."""

import math

import pytest
import torch
from torch import Tensor, nn

from evoprune.config.schema import TrainConfig
from evoprune.data.images import ImageArray
from evoprune.data.splits import Split
from evoprune.tasks.classification import Classification
from evoprune.training import distillation
from evoprune.training.distillation import Distillation, Teacher
from evoprune.training.fit import fit

CPU = torch.device("cpu")


@pytest.fixture
def few() -> Split:
    """65 images of 8x8 in 3 classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (65, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(ImageArray(pixels), torch.arange(65) % 3, torch.tensor([0.5]), torch.tensor([0.3]))


class Network(nn.Module):
    """A convolution and a classifier. seen: how many images it was shown."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
            )
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.layers(images)


def trained(few: Split, teacher: Teacher, augment: tuple[str, ...] = ()) -> Network:
    student = Network(0)
    train = TrainConfig(epochs=5, batch_size=16, learning_rate=0.01)
    fit(student, few, train, 0, CPU, distillation=Distillation(teacher, 1.0, 4.0), augment=augment)
    return student.eval()


def test_distillation_alone_reaches_the_teacher(few: Split) -> None:
    model, images = Network(1), few.tensors()[0]

    def distance(student: nn.Module) -> float:
        with torch.no_grad():
            return float(Classification().distillation_loss(student.eval()(images), model(images), 4.0))

    student = trained(few, Teacher(model, few, CPU, "float32"))
    assert not model.training
    assert distance(student) < 0.5 * distance(Network(0))


def test_a_teacher_is_asked_once_for_each_image_that_stays_the_same(few: Split) -> None:
    model = Network(1)
    teacher = Teacher(model, few, CPU, "float32")
    trained(few, teacher)
    after_the_first = model.seen
    assert after_the_first < 2 * len(few)  # five epochs; besides, one batch and the trial of the layout
    trained(few, teacher)
    assert model.seen == after_the_first


def test_cached_teacher_outputs_equal_computed_ones(few: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    remembering, computing = (Teacher(Network(1), few, CPU, "float32") for _ in range(2))
    indices = torch.tensor([64, 3, 17])
    images, _ = few.batch(indices)
    remembered = remembering.outputs(indices, images, same_every_epoch=True)
    torch.testing.assert_close(remembered, computing.outputs(indices, images, same_every_epoch=False))
    monkeypatch.setattr(distillation, "REMEMBERED_BYTES", 65 * 3 * 4 - 1)
    torch.testing.assert_close(remembered, computing.outputs(indices, images, same_every_epoch=True))


def test_augmented_images_are_shown_as_they_are(few: Split) -> None:
    model = Network(1)
    trained(few, Teacher(model, few, CPU, "float32"), augment=("flip",))
    assert model.seen >= 5 * len(few)


def test_the_loss_by_hand(few: Split) -> None:
    # T = 1: teacher (1/4, 3/4), student (1/2, 1/2): 1/4 ln(1/2) + 3/4 ln(3/2)
    taught = torch.tensor([[1.0, 3.0]]).log()
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(Classification().distillation_loss(torch.zeros(1, 2), taught, 1.0)) == pytest.approx(
        expected, rel=1e-5
    )
    mixed = Distillation(Teacher(Network(1), few, CPU, "float32"), 0.9, 1.0)
    found = float(mixed.loss(Classification(), torch.tensor(2.0), torch.zeros(1, 2), taught))
    assert found == pytest.approx(0.1 * 2 + 0.9 * expected, rel=1e-5)
