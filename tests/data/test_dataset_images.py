"""Images that are read from a user's data set each time that they are asked for."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset

from evoprune.data import dataset_images
from evoprune.data.dataset_images import DatasetImages, read_lazily
from evoprune.data.splits import Split
from evoprune.errors import DataError
from evoprune.tasks.classification import Classification
from evoprune.tasks.like_teacher import LikeTeacher
from evoprune.tasks.segmentation import Segmentation

IMAGES, LABELS = torch.arange(7 * 6.0).reshape(7, 1, 2, 3), torch.arange(7) % 3
PAIRS = TensorDataset(IMAGES, LABELS)


@pytest.fixture(autouse=True)
def nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_images, "HELD_BYTES", 6 * 4 * 7 - 1)


class Items(Dataset[Any]):
    """A data set whose items a function makes."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make
        self.read: list[int] = []

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return self.make(index)


def lazily(source: Any, task: Any = None) -> tuple[DatasetImages, Any]:
    found = read_lazily(source, "train", task or Classification(), as_floats=True)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "source",
    [
        PAIRS,
        Subset(PAIRS, range(7)),
        DataLoader(PAIRS, batch_size=3),
        DataLoader(PAIRS, batch_size=3, shuffle=True),
        DataLoader(PAIRS, num_workers=1),
        Items(lambda index: {"image": IMAGES[index].numpy(), "label": int(LABELS[index]), "name": "x"}),
    ],
)
def test_images_are_read_where_they_are_asked_for(source: Any) -> None:
    state = torch.get_rng_state()
    images, labels = lazily(source)
    assert torch.equal(torch.get_rng_state(), state)
    assert (len(images), images.shape, images.held, images.same_every_time) == (7, (1, 2, 3), False, True)
    assert torch.equal(labels, LABELS)
    assert torch.equal(images.read(torch.tensor([5, 0])), IMAGES[[5, 0]])
    assert torch.equal(images.select(torch.tensor([6, 2])).read(torch.tensor([1])), IMAGES[[2]])
    assert images.read(torch.arange(0)).shape == (0, 1, 2, 3)
    ahead = [pixels for pixels, _ in images.read_ahead(torch.arange(7).split(3))]
    assert torch.equal(torch.cat(ahead), IMAGES)


def test_nothing_stays_in_memory() -> None:
    source = Items(lambda index: (IMAGES[index], LABELS[index]))
    images, _ = lazily(source)
    assert source.read == [0, 0, *range(7)]
    images.read(torch.tensor([3]))
    images.read(torch.tensor([3]))
    assert source.read[-2:] == [3, 3]


@pytest.mark.parametrize(
    "source",
    [
        (IMAGES, LABELS),
        IMAGES,
        [(IMAGES, LABELS)],
        DataLoader(PAIRS, sampler=SubsetRandomSampler(range(5))),
        Subset(PAIRS, range(6)),  # fits
    ],
)
def test_other_sources_and_small_ones_are_held(source: Any) -> None:
    assert read_lazily(source, "train", Classification(), as_floats=True) is None


def test_incomplete_batches_are_left_out_as_the_loader_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_images, "HELD_BYTES", 0)
    images, labels = lazily(DataLoader(PAIRS, batch_size=3, drop_last=True))
    assert (len(images), len(labels)) == (6, 6)


def test_pixels_of_bytes_stay_bytes_if_they_are_normalised_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_images, "HELD_BYTES", 0)
    source = Items(lambda index: (torch.full((2, 3), index, dtype=torch.uint8), index % 3))
    found = read_lazily(source, "train", Classification(), as_floats=False)
    assert found is not None
    images, labels = found
    split = Split(images, labels, torch.tensor([0.5]), torch.tensor([2.0]))
    pixels, _ = split.batch(torch.tensor([6]))
    torch.testing.assert_close(pixels, torch.full((1, 1, 2, 3), (6 / 255 - 0.5) / 2))


def flipped(index: int) -> tuple[Tensor, Tensor]:
    """An image and its mask, flipped at random, both together."""
    image = IMAGES[index] if torch.rand(()) < 0.5 else IMAGES[index].flip(2)
    return image, image[0].long() % 2


def test_targets_go_with_images_that_the_data_set_changes() -> None:
    images, masks = lazily(Items(flipped), Segmentation())
    split = Split(images, masks, torch.zeros(1), torch.ones(1))
    seen = set()
    for _ in range(20):
        pixels, found = split.batch(torch.tensor([4]))
        assert torch.equal(found, pixels[:, 0].long() % 2)
        seen.add(float(pixels[0, 0, 0, 0]))
    assert seen == {24.0, 26.0}


def test_a_data_set_that_changes_its_images_has_one_identity() -> None:
    one, other = lazily(Items(flipped), Segmentation())[0], lazily(Items(flipped), Segmentation())[0]
    assert list(one.identity()) == list(other.identity())
    assert list(lazily(PAIRS)[0].identity()) != list(one.identity())
    changed = TensorDataset(IMAGES + torch.tensor([0.0] * 6 + [1.0])[:, None, None, None], LABELS)
    assert list(lazily(PAIRS)[0].identity()) != list(lazily(changed)[0].identity())


def test_whether_images_change_is_found_out() -> None:
    random.seed(0)
    changing = Items(lambda index: (IMAGES[index] + random.random(), LABELS[index]))
    assert not lazily(changing)[0].same_every_time


def test_targets_that_the_task_does_not_read_are_left_out() -> None:
    images, targets = lazily(PAIRS, LikeTeacher())
    assert targets is None
    split = Split(images, torch.arange(7), torch.zeros(1), torch.ones(1))  # the network's own answers
    assert split.batch(torch.tensor([3]))[1].tolist() == [3]


def item(index: int, special: Any) -> Any:
    return special if index == 5 else (IMAGES[index], LABELS[index])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda index: item(index, (torch.zeros(1, 4, 3), 0)), "train cannot be read|images of one shape"),
        (lambda index: item(index, (torch.full((1, 2, 3), torch.nan), 0)), "train images must be finite numbers"),
        (lambda index: item(index, None), "train cannot be read"),
        (lambda index: (IMAGES[index], "cat"), "must give images and targets as tensors"),
        (
            lambda index: {"image": IMAGES[index], "fine": 1, "label": 1, "mask": 2},
            r"\(image, fine, label, mask\); give",
        ),
        (lambda index: (IMAGES[index][0, 0], 0), "train must be images"),
        (lambda index: IMAGES[index] + torch.rand(()), "images without targets must be the same each time"),
        (
            lambda index: item(index, None) if index < 5 else 1 / 0,
            r"train cannot be read from the Items \(ZeroDivisionError: division by zero\); repair",
        ),
    ],
)
def test_faults_of_data_sets_are_one_line(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[int], Any], message: str
) -> None:
    monkeypatch.setattr(dataset_images, "HELD_BYTES", 0)
    with pytest.raises(DataError, match=message) as caught:
        lazily(Items(make))
    assert "\n" not in str(caught.value)
