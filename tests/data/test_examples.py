"""Images and labels out of whatever users have them in."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from evoprune.data.examples import read_examples
from evoprune.errors import DataError

IMAGES, LABELS = torch.arange(7 * 2 * 3.0).reshape(7, 1, 2, 3), torch.arange(7) % 3
PAIRS = TensorDataset(IMAGES, LABELS)


class Batches(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(IMAGES[:4], LABELS[:4]), (IMAGES[4:], LABELS[4:])])


LABELLED: dict[str, Any] = {
    "tensors": (IMAGES, LABELS),
    "arrays": (IMAGES.numpy(), LABELS.numpy()),
    "list": [IMAGES, LABELS],
    "batches": [(IMAGES[:4], LABELS[:4]), (IMAGES[4:], LABELS[4:])],
    "generator": ((IMAGES[place : place + 1], LABELS[place : place + 1]) for place in range(7)),
    "iterable data set": Batches(),
    "data set": PAIRS,
    "loader": DataLoader(PAIRS, batch_size=3),
    "shuffling loader": DataLoader(PAIRS, batch_size=3, shuffle=True),
    "negative strides": (IMAGES.numpy()[::-1][::-1], LABELS.numpy()),
}


@pytest.mark.parametrize("source", LABELLED.values(), ids=LABELLED.keys())
def test_images_and_labels(source: Any) -> None:
    images, labels = read_examples(source, "train")
    assert labels is not None
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize(
    "source",
    [IMAGES, IMAGES.numpy(), [IMAGES[:2], IMAGES[2:]], DataLoader(list(IMAGES), batch_size=2)],  # type: ignore[arg-type]
)
def test_images_alone(source: Any) -> None:
    images, labels = read_examples(source, "calibration")
    assert torch.equal(images, IMAGES)
    assert labels is None


def test_a_shuffling_loader_is_read_in_its_order() -> None:
    """With replacement, or fewer than there are: then its order is all that there is."""
    sampler = RandomSampler(PAIRS, replacement=True, num_samples=20, generator=torch.Generator().manual_seed(0))
    images, labels = read_examples(DataLoader(PAIRS, batch_size=4, sampler=sampler), "train")
    assert labels is not None
    assert len(images) == len(labels) == 20
    assert torch.equal(images[:, 0, 0, 0].long() // 6 % 3, labels)


def test_channels_of_pillow_images_come_first() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)

    class Pictures(Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.fromarray(pixels), index

    images, labels = read_examples(Pictures(), "train")
    assert images.dtype == torch.uint8
    assert labels is not None
    assert labels.tolist() == [0, 1]
    assert torch.equal(images[1], torch.from_numpy(pixels.transpose(2, 0, 1).copy()))


class Broken(Dataset[Any]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Tensor:
        raise SystemExit("no image\nat all")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"train must be a pair of tensors \(images, labels\), .*, not of type NoneType"),
        (3, r"not of type int"),
        ("x", r"not of type str"),
        ({"images": IMAGES}, r"not of type dict"),
        ([], r"not an empty list"),
        ([None], r"not of type list"),
        ((np.array(["a"], object), LABELS), r"not of type tuple"),
        (IMAGES.to("meta"), r"not of type Tensor"),
        ([IMAGES, IMAGES[:, :, :1]], r"train must have images of one shape, not \(1, 1, 3\) and \(1, 2, 3\); resize"),
        (Broken(), r"train cannot be read from the Broken \(SystemExit: no image\); give"),
    ],
)
def test_values_that_are_no_examples_are_named_in_one_line(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_examples(source, "train")
    assert "\n" not in str(error.value)
