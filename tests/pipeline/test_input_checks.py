"""Networks and data that nothing can be learned from are named before the first stage."""

import copy
import logging
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import evoprune as ep
from evoprune.data.images import ImageArray
from evoprune.data.load import Data
from evoprune.data.splits import Split
from evoprune.errors import DataError, NetworkError, UserError
from evoprune.pipeline.input_checks import check_data, check_network, warn_of_useless_baseline
from evoprune.scoring.problem import make_problem
from evoprune.scoring.scorer import Problem
from evoprune.tasks.classification import Classification
from tests import tiny_runs
from tests.few_images import few

SPLITS = ("train", "calibration", "validation", "test")
SERIAL = ep.WorkersConfig(backend="serial")
BRIEF = ep.SearchConfig(population=4, generations=1)


def split(images: Tensor, labels: Tensor) -> Split:
    return Split(ImageArray(images), labels, torch.zeros(1), torch.ones(1))


def data_with(name: str, images: Tensor, labels: Tensor) -> Data:
    """Two classes, eight random images a split, but for one split."""
    whole = split(torch.rand(8, 1, 4, 4), torch.arange(8) % 2)
    splits = dict.fromkeys(SPLITS, whole) | {name: split(images, labels)}
    train, calibration, validation, test = (splits[each] for each in SPLITS)
    return Data(train, calibration, validation, test, classes=2, image_shape=(1, 4, 4))


# --- data


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pixels_that_are_not_finite_are_named_with_their_split(name: str, value: float) -> None:
    images = torch.rand(8, 1, 4, 4)
    images[5, 0, 1, 2] = value
    message = rf"^{name} images must be finite numbers, but 1 of 8 .* \(the first is image 5, counted from 0\)"
    with pytest.raises(DataError, match=message):
        check_data(data_with(name, images, torch.arange(8) % 2), Classification(), torch.zeros(1, 2))


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("label", [-100, 2])
def test_labels_that_are_no_classes_are_named_with_their_split(name: str, label: int) -> None:
    labels = torch.tensor([0, 1, label])
    with pytest.raises(DataError, match=rf"^{name} labels must be 0\.\.1, .* not {min(0, label)}\.\.{max(1, label)}$"):
        check_data(data_with(name, torch.rand(3, 1, 4, 4), labels), Classification(), torch.zeros(1, 2))


def warnings_of(caplog: pytest.LogCaptureFixture, data: Data) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_data(data, Classification(), torch.zeros(1, 2))
    return caplog.messages


def test_suspicious_splits_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    images, labels = torch.rand(8, 1, 4, 4), torch.arange(8) % 2
    assert warnings_of(caplog, data_with("train", images, labels)) == []
    constant = images.clone()
    constant[2:4] = 0.5
    [text] = warnings_of(caplog, data_with("validation", constant, labels))
    assert text.startswith("2 of 8 validation images are constant (the first is image 2")
    [text] = warnings_of(caplog, data_with("test", images, torch.ones(8, dtype=torch.int64)))
    assert text.startswith("all 8 test images are of class 1")
    one = data_with("calibration", images[:1], labels[:1])  # fewer images than classes: no wonder that some lack
    assert warnings_of(caplog, one) == []
    empty = data_with("test", images[:0], labels[:0])
    assert warnings_of(caplog, empty) == []


# --- networks


@pytest.mark.parametrize("name", ["1.weight", "1.running_var"])
def test_weights_that_are_not_finite_are_named(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    check_network(network, "model", trains=True)
    network.state_dict()[name][1] = math.nan
    with pytest.raises(NetworkError, match=rf"^model: tensor '{name}' must hold finite numbers, but 1 of 2 are NaN"):
        check_network(network, "model", trains=True)


def test_frozen_networks_are_refused_if_they_are_to_be_trained() -> None:
    network = nn.Linear(2, 2).requires_grad_(False)
    check_network(network, "model", trains=False)
    with pytest.raises(NetworkError, match=r"^model: no parameter has requires_grad, .*; unfreeze some"):
        check_network(network, "model", trains=True)
    network.bias.requires_grad_(True)
    check_network(network, "model", trains=True)


def problem(answers: list[int], labels: list[int]) -> Problem:
    """A network that gives class 1 to images of ones and class 0 to images of zeros, on images of the answers."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    weights = {
        "0.weight": torch.ones(4, 1, 1, 1),
        "0.bias": torch.zeros(4),
        "3.weight": torch.tensor([[0.0] * 4, [0.25] * 4]),
        "3.bias": torch.tensor([0.5, 0.0]),
    }
    model.load_state_dict(weights)
    images = torch.tensor(answers, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 4, 4).clone()
    space = ep.search_space(model, images[:1])
    device = torch.device("cpu")
    return make_problem(
        model, space, images, images, torch.tensor(labels), tolerance=0.1, compensate=False, device=device
    )


@pytest.mark.parametrize(
    ("answers", "labels", "warning"),
    [
        ([0, 1, 0, 1], [0, 1, 1, 1], r"misclassifies 25\.0% .* \(25\.0% by always answering"),
        ([0, 1, 0, 1], [0, 1, 0, 1], None),
        ([0, 1, 0, 1, 1], [0, 1, 0, 1, 0], None),  # 1 error of 5; 2 by always answering 0
        ([1, 1, 1, 1], [0, 1, 0, 1], "answers class 1 for all 4 validation images"),
        ([1, 0, 1, 0], [0, 1, 0, 1], r"misclassifies 100\.0% .* \(50\.0% by always answering"),
        ([0, 1, 1, 0], [0, 1, 0, 1], r"misclassifies 50\.0% .* no better than chance"),
        ([1, 0, 1, 0], [0, 0, 0, 0], None),  # of one class only: that is warned of elsewhere
    ],
)
def test_useless_baselines_are_warned_of(
    answers: list[int], labels: list[int], warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_useless_baseline(problem(answers, labels))
    if warning is None:
        assert caplog.messages == []
    else:
        [message] = caplog.messages
        assert re.search(warning, message)


# --- evolve


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(7), nn.Flatten(), nn.Linear(16, 10))


IMAGES, LABELS = few()[2:]


def arguments(**changed: Any) -> dict[str, Any]:
    return {
        "model": small(),
        "example_input": IMAGES[:1],
        "validation": (IMAGES, LABELS),
        "calibration": IMAGES,
        "workers": SERIAL,
        "search": BRIEF,
        "device": "cpu",
        **changed,
    }


def with_value(value: float) -> Tensor:
    images = IMAGES.clone()
    images[4, 0, 3, 3] = value
    return images


def with_nan_weight() -> nn.Module:
    model = small()
    model.state_dict()["0.weight"][1, 0, 0, 0] = math.nan
    return model


class Sizes(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(1, 14 + index, 14), 0


class Failing(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise KeyError("first line\nsecond line")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": None}, r"model must be a torch\.nn\.Module, not a NoneType"),
        ({"model": with_nan_weight()}, r"model: tensor '0\.weight' must hold finite numbers, but 1 of 36"),
        ({"model": torch.jit.script(small())}, r"model must be a plain torch\.nn\.Module, not a compiled ScriptModule"),
        ({"example_input": None}, r"example_input must be a tensor \(1, c, h, w\), .* not NoneType"),
        ({"example_input": IMAGES[:0]}, r"example_input must be a tensor \(1, c, h, w\), .* not \(0, 1, 14, 14\)"),
        ({"out": 5}, r"out: must be a folder, not a int"),
        ({"retrain": BRIEF}, r"retrain must be an ep\.RetrainConfig, not a SearchConfig"),
        ({"tolerance": math.nan}, r"search\.tolerance must be between 0 and 1 .*, not NaN"),
        ({"validation": (IMAGES.to(torch.complex64), LABELS)}, r"validation must be images .* and torch\.complex64"),
        ({"validation": None}, r"validation must be a pair of tensors .*, not of type NoneType"),
        ({"validation": "images"}, r"validation must be a pair of tensors .*, not of type str"),
        ({"validation": []}, r"validation must be a pair of tensors .*, not an empty list"),
        ({"validation": (IMAGES[:0], LABELS[:0])}, r"validation must have at least one image, not none"),
        ({"validation": (with_value(math.nan), LABELS)}, r"validation images must be finite .* 1 of 30"),
        ({"validation": Sizes()}, r"validation must have images of one shape, not \(1, 14, 14\) and \(1, 15, 14\)"),
        ({"validation": DataLoader(Sizes())}, r"validation must have images of one shape"),
        ({"validation": Failing()}, r"validation cannot be read from the Failing \(KeyError: 'first line"),
        ({"calibration": None}, r"calibration must be a pair of tensors .*, not of type NoneType"),
        ({"calibration": IMAGES[:0]}, r"calibration must have 2 images or more, .* not 0"),
        ({"calibration": IMAGES[:1]}, r"calibration must have 2 images or more, .* not 1"),
        (
            {"calibration": IMAGES[:, :, :7]},
            r"calibration images must have the shape .* \(1, 7, 14\)",
        ),
        ({"calibration": with_value(math.inf)}, r"calibration images must be finite .* \(the first is image 4"),
        ({"calibration": (IMAGES, LABELS - 100)}, r"calibration labels must be 0\.\.9, .* not -100\.\.-91"),
        ({"train": (IMAGES[:0], LABELS[:0])}, r"train must have at least one image, not none"),
        ({"train": (IMAGES[:, :, :7], LABELS)}, r"train images must have the shape .* \(1, 14, 14\), not \(1, 7, 14\)"),
        ({"train": (IMAGES, LABELS + 1)}, r"train labels must be 0\.\.9, .* not 1\.\.10"),
        ({"train": (with_value(math.nan), LABELS)}, r"train images must be finite .* 1 of 30"),
        ({"model": small().requires_grad_(False), "train": (IMAGES, LABELS)}, r"model: no parameter has requires_grad"),
        ({"seed": -1}, r"evolve: seed must be a whole number from 0"),
        ({"device": "gpu"}, r"evolve: device must be auto, cpu, cuda or cuda:N"),
        ({"search": {"populatoin": 3}}, r"evolve: search\.populatoin is no key|unknown key"),
        ({"tolerance": 2.0}, r"evolve: search\.tolerance must be between 0 and 1"),
    ],
)
def test_evolve_refuses_bad_input_before_writing(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        ep.evolve(**{"out": tmp_path / "run", **arguments(**changed)})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_round_that_retrains_needs_training_images(tmp_path: Path) -> None:
    rounds: tuple[Any, ...] = ({"retrain": {"epochs": 1}}, {})
    search = ep.SearchConfig(population=4, generations=1, rounds=rounds)
    with pytest.raises(UserError, match=r"retrain\.epochs must be 0 without training images"):
        ep.evolve(**arguments(search=search), out=tmp_path / "run")


class Pairs(Dataset[Any]):
    """A data set of somebody's own."""

    def __init__(self, pairs: list[tuple[Tensor, int]]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._pairs[index]


def test_data_sets_compiled_and_parallel_networks_are_taken(tmp_path: Path) -> None:
    plain = ep.evolve(**arguments(tolerance=1.0), out=tmp_path / "plain")
    images = [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]
    others: dict[str, dict[str, Any]] = {
        "data sets": {"validation": TensorDataset(IMAGES, LABELS), "calibration": Pairs(images)},
        "compiled": {"model": torch.compile(small())},
        "parallel": {"model": nn.DataParallel(small())},
    }
    for name, changed in others.items():
        run = ep.evolve(**arguments(tolerance=1.0, **changed), out=tmp_path / name)
        assert run.candidates["key"].tolist() == plain.candidates["key"].tolist()
        run.load_survivor(run.survivors["key"].iloc[0])


# --- the tolerance, given once or twice


def test_tolerance_may_be_given_in_either_place_but_not_two_values(tmp_path: Path) -> None:
    set_twice = ep.SearchConfig(population=4, generations=1, tolerance=0.05)
    for name, given, expected in (
        ("default", {}, 0.02),
        ("search", {"search": set_twice}, 0.05),
        ("argument", {"tolerance": 0.05}, 0.05),
        ("both alike", {"search": set_twice, "tolerance": 0.05}, 0.05),
    ):
        run = ep.evolve(**arguments(**given), out=tmp_path / name)
        assert run.config.search.tolerance == expected
    with pytest.raises(
        UserError, match=r"^tolerance is given twice, as tolerance=0\.02 and as search\.tolerance 0\.05"
    ):
        ep.evolve(**arguments(search=set_twice, tolerance=0.02), out=tmp_path / "differing")
    assert not (tmp_path / "differing").exists()


# --- warnings from a script that sets up no logging


SCRIPT = """
import torch
import evoprune as ep
from tests.brief_measurements import brief_measurements
from tests.few_images import few
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, 10)
)
images, labels = few()[2:]
with brief_measurements():
    ep.evolve(
        model, images[:1], (images, labels), images,
        search=ep.SearchConfig(population=4, generations=1),
        workers=ep.WorkersConfig(backend="serial", gram_memory=1e-9), device="cpu",
    )
"""


def test_a_script_without_logging_shows_warnings_on_stderr() -> None:
    """A layer is left without compensation, and the run is in a folder that it was not given."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert "layers left without compensation (of a kind that has none, or beyond workers.gram_memory): 3" in done.stderr
    assert "the run is kept in " in done.stderr
    assert done.stdout == ""


# --- the command


def test_weights_that_are_not_finite_are_blamed_and_not_the_images(tmp_path: Path) -> None:
    network = copy.deepcopy(small())
    network.state_dict()["0.weight"][0] = math.nan
    torch.save(network.state_dict(), tmp_path / "w.pt")
    overrides = tiny_runs.BRIEF | {"model.network": "tests.pipeline.test_input_checks:small"}
    with pytest.raises(NetworkError, match=r"model\.weights: .*w\.pt.*0\.weight"):
        tiny_runs.run(tmp_path / "run", overrides | {"model.weights": str(tmp_path / "w.pt")})
    assert not (tmp_path / "run").exists()
