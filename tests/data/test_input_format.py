"""What a network reads, as metadata: values by hand, the way back, and values that are refused."""

import json

import pytest
import torch

from evoprune.config.schema import DataConfig
from evoprune.data.class_names import CLASS_NAMES
from evoprune.data.input_format import InputFormat
from evoprune.data.load import KNOWN_SHAPES, load_data

COLOUR = InputFormat((3, 4, 5), 2, (0.5, 0.25, 0.0), (1.0, 0.5, 2.0), (0.0, 1.0), "RGB", ("cat", "dog"))
METADATA = {
    "layout": "NCHW",
    "dtype": "float32",
    "normalisation": "outside",
    "image_shape": "[3, 4, 5]",
    "classes": "2",
    "mean": "[0.5, 0.25, 0.0]",
    "std": "[1.0, 0.5, 2.0]",
    "value_range": "[0.0, 1.0]",
    "colours": "RGB",
    "class_names": '["cat", "dog"]',
}


def test_metadata_by_hand_round_trips() -> None:
    assert COLOUR.to_metadata(normalisation_inside=False) == METADATA
    assert COLOUR.to_metadata(normalisation_inside=True) == METADATA | {"normalisation": "inside"}
    assert InputFormat.from_metadata(METADATA) == COLOUR


def test_files_of_earlier_versions_have_shape_and_classes_alone() -> None:
    assert InputFormat.from_metadata({"image_shape": "[1, 8, 8]", "classes": "10"}) == InputFormat((1, 8, 8), 10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_shape", "[3, 4]"),
        ("image_shape", "3"),
        ("classes", "[]"),
        ("mean", "[0.5, 0.25]"),
        ("mean", "{"),
        ("mean", '["a", "b", "c"]'),
        ("std", "[1.0, NaN, 2.0]"),
        ("std", "[1.0, 0.0, 2.0]"),
        ("value_range", "[0.0]"),
        ("class_names", '["cat"]'),
        ("class_names", "7"),
    ],
)
def test_other_values_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        InputFormat.from_metadata(METADATA | {name: value})


def test_of_a_data_set() -> None:
    data = load_data(DataConfig(dataset="mnist5k", validation=200, calibration=64), seed=0)
    found = data.input_format
    assert (found.image_shape, found.classes) == ((1, 28, 28), 10)
    assert (found.value_range, found.colours, found.class_names) == ((0.0, 1.0), "grey", tuple("0123456789"))
    assert found.mean is not None
    assert found.std is not None
    pixels = data.train.pixels()
    assert 0 <= float(pixels.min()) < float(pixels.max()) <= 1
    assert found.mean[0] == pytest.approx(float(pixels.double().mean()), abs=1e-6)
    assert found.std[0] == pytest.approx(float(pixels.double().std(correction=0)), abs=1e-6)
    assert json.loads(found.to_metadata(False)["mean"]) == list(found.mean)
    images, _ = data.train.tensors()
    assert torch.equal(images, (pixels - found.mean[0]) / found.std[0])


def test_a_users_own_floats_are_of_unknown_range() -> None:
    found = load_data(DataConfig(dataset="tests.few_images:few", validation=50, calibration=16), seed=0).input_format
    assert (found.value_range, found.colours, found.class_names) == (None, None, None)


def test_every_class_of_a_known_data_set_has_a_name() -> None:
    assert {name: len(names) for name, names in CLASS_NAMES.items()} == {
        name: classes for name, (_, classes) in KNOWN_SHAPES.items()
    }
    assert all(len(set(names)) == len(names) for names in CLASS_NAMES.values())
    assert list(CLASS_NAMES["cifar100"]) == sorted(CLASS_NAMES["cifar100"])  # its labels are alphabetical
