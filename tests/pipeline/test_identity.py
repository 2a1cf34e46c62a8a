"""A run goes on with the weights and data that it was made on, and with no others."""

import copy
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import evoprune as ep
from evoprune.data.images import ImageArray
from evoprune.data.load import Data, load_data
from evoprune.errors import ConfigError
from evoprune.networks.weight_files import read_weights
from evoprune.pipeline.identity import check_identity, identity_of, write_identity
from evoprune.pipeline.sweep import sweep
from evoprune.progress import SilentProgress
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.housekeeping import create
from tests import tiny_runs
from tests.few_images import few

SPLITS = ("train", "calibration", "validation", "test")

# --- hashes


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(tiny_runs.config(tiny_runs.BRIEF).data, 0)


def with_image_changed(data: Data, name: str) -> Data:
    split = getattr(data, name)
    pixels = split.images.read(torch.arange(len(split))).clone()
    pixels[-1, 0, 0, 0] += 1
    return replace(data, **{name: replace(split, images=ImageArray(pixels))})


def with_label_changed(data: Data, name: str) -> Data:
    split = getattr(data, name)
    labels = split.targets.clone()
    labels[-1] = (labels[-1] + 1) % 10
    return replace(data, **{name: replace(split, targets=labels)})


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize(("change", "part"), [(with_image_changed, "images"), (with_label_changed, "labels")])
def test_one_other_pixel_or_label_changes_the_identity(
    name: str, change: Callable[[Data, str], Data], part: str, data: Data
) -> None:
    before, after = identity_of(data, None), identity_of(change(data, name), None)
    assert before.keys() == after.keys() == {f"{split} {kind}" for split in SPLITS for kind in ("images", "labels")}
    assert [key for key in before if before[key] != after[key]] == [f"{name} {part}"]


def test_weights_count_with_names_types_shapes_and_values(data: Data) -> None:
    weights = {"a": torch.arange(4.0), "b": torch.tensor(1), "c": torch.ones(2, dtype=torch.bfloat16)}
    others: list[dict[str, Tensor]] = [
        weights | {"a": torch.tensor([0.0, 1, 2, 4])},
        weights | {"a": torch.arange(4.0).reshape(2, 2)},
        weights | {"a": torch.arange(4.0).double()},
        weights | {"c": torch.ones(2, dtype=torch.float16)},
        {"d": weights["a"], "b": weights["b"], "c": weights["c"]},
    ]
    assert len({identity_of(data, each)["weights"] for each in (weights, *others)}) == 1 + len(others)
    reordered = dict(reversed(weights.items()))
    assert identity_of(data, reordered) == identity_of(data, copy.deepcopy(weights))


def test_a_damaged_file_is_named(tmp_path: Path, data: Data) -> None:
    folder = RunFolder(tmp_path / "run")
    create(folder)
    write_identity(folder, identity_of(data, None))
    check_identity(folder, identity_of(data, None))
    folder.identity.write_text("{}")
    with pytest.raises(files.DamagedFileError, match=r"identity\.json is damaged"):
        check_identity(folder, identity_of(data, None))
    files.write_json(folder.identity, [1])
    with pytest.raises(files.DamagedFileError, match=r"identity\.json is damaged: its content"):
        check_identity(folder, identity_of(data, None))


# --- evolve


class Given:
    """Arguments of `evolve` for a search of a moment. Each change is made on a copy."""

    def __init__(self) -> None:
        images, labels, test_images, test_labels = few()
        self.model: nn.Module = network()
        self.validation = test_images, test_labels
        self.calibration = images[:16], labels[:16]
        self.train = images, labels

    def evolve(self, out: Path, **others: Any) -> ep.Run:
        return ep.evolve(
            self.model,
            torch.zeros(1, 1, 14, 14),
            self.validation,
            self.calibration,
            **{
                "tolerance": 1.0,
                "train": self.train,
                "search": ep.SearchConfig(population=4, generations=1),
                "retrain": ep.RetrainConfig(survivors=1, epochs=1, compensation="search"),
                "workers": ep.WorkersConfig(backend="serial"),
                "device": "cpu",
                "out": out,
                **others,
            },
        )


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(7), nn.Flatten(), nn.Linear(16, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return model.eval()


@pytest.fixture(scope="module")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    return Given().evolve(tmp_path_factory.mktemp("evolved") / "run")


def another_head(given: Given) -> None:
    """As in the first example: the same network with its answers turned round."""
    given.model = copy.deepcopy(given.model)
    head = given.model[-1]  # type: ignore[index]
    with torch.no_grad():
        head.weight.neg_()
        head.bias.neg_()


def another_image(name: str) -> Callable[[Given], None]:
    def change(given: Given) -> None:
        images, labels = getattr(given, name)
        images = images.clone()
        images[3, 0, 5, 5] += 0.5
        setattr(given, name, (images, labels))

    return change


def another_label(name: str) -> Callable[[Given], None]:
    def change(given: Given) -> None:
        images, labels = getattr(given, name)
        labels = labels.clone()
        labels[3] = 9 - labels[3]
        setattr(given, name, (images, labels))

    return change


GIVEN_SPLITS = ("train", "calibration", "validation")
CHANGES = {
    "weights": another_head,
    **{f"{name} images": another_image(name) for name in GIVEN_SPLITS},
    **{f"{name} labels": another_label(name) for name in GIVEN_SPLITS},
}


@pytest.mark.parametrize("part", CHANGES)
@pytest.mark.parametrize("more", [{}, {"search": ep.SearchConfig(population=4, generations=2)}], ids=["same", "longer"])
def test_evolve_refuses_others_and_changes_nothing(part: str, more: dict[str, Any], evolved: ep.Run) -> None:
    given, before = Given(), tiny_runs.state_of(evolved.root)
    CHANGES[part](given)
    message = (
        rf"^the {part} differ from those that the run in \S+ was made on \(sha256 \w{{12}} there, \w{{12}} here\); "
    )
    with pytest.raises(ConfigError, match=message) as error:
        given.evolve(evolved.root, **more)
    assert "\n" not in str(error.value)
    after = tiny_runs.state_of(evolved.root)
    assert after | {"lock": before["lock"]} == before


def test_evolve_resumes_with_equal_data_of_any_type(tmp_path: Path) -> None:
    """A shuffling loader is read in the order of its data set; labels that nobody reads may be left out."""
    given = Given()
    first = given.evolve(tmp_path / "run").candidates
    again = Given()
    again.train = DataLoader(TensorDataset(*given.train), batch_size=32, shuffle=True)  # type: ignore[assignment]
    again.validation = TensorDataset(*given.validation)  # type: ignore[assignment]
    again.calibration = given.calibration[0]  # type: ignore[assignment]
    second = again.evolve(tmp_path / "run", search=ep.SearchConfig(population=4, generations=2))
    assert second.candidates["generation"].max() == 2
    assert second.candidates[second.candidates["generation"] < 2].equals(first)


# --- the command


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Arrays in files, as a user's own module reads them; returns their folder."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, array in zip(NAMES, few(), strict=True):
        np.save(folder / f"{name}.npy", array.numpy())
    (tmp_path / "identity_toy.py").write_text(
        f"import numpy as np\ndef data(): return tuple(np.load(f'images/{{name}}.npy') for name in {NAMES!r})\n"
    )
    monkeypatch.chdir(tmp_path)
    return folder


NAMES = ("train_images", "train_labels", "test_images", "test_labels")
TOY: dict[str, object] = {"data.dataset": "identity_toy:data"}
MORE: dict[str, object] = {"search.generations": 2}


def change(folder: Path, name: str, position: int) -> None:
    array = np.load(folder / f"{name}.npy")
    if "labels" in name:
        array[position] = (array[position] + 1) % 10
    else:
        array[position, 0, 5, 5] += 0.5
    np.save(folder / f"{name}.npy", array)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train_images", "the (train|validation|calibration) images differ"),
        ("train_labels", "the (train|validation|calibration) (images|labels) differ"),
        ("test_images", "the test images differ"),
        ("test_labels", "the test labels differ"),
    ],
)
def test_a_run_whose_data_changed_is_refused(name: str, message: str, images: Path, tmp_path: Path) -> None:
    """As in the second example; as it is, longer, as a branch, and by a sweep."""
    run = tiny_runs.run(tmp_path / "run", tiny_runs.BRIEF | TOY)
    longer = ep.resume(run.root, overrides=TOY | MORE)
    assert longer.candidates["generation"].max() == 2
    before = tiny_runs.state_of(run.root)
    change(images, name, 7)
    for options in ({}, {"generation": 0, "out": tmp_path / "branch"}):
        for overrides in (TOY, TOY | {"search.generations": 3}):
            with pytest.raises(ConfigError, match=message):
                ep.resume(run.root, overrides=overrides, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "branch").exists()
    assert tiny_runs.state_of(run.root) | {"lock": before["lock"]} == before


def test_a_sweep_accepts_unchanged_data_only(images: Path, tmp_path: Path) -> None:
    config, out = tiny_runs.config_file(tmp_path, tiny_runs.BRIEF | TOY), tmp_path / "out"
    choices: dict[str, list[object]] = {"seed": [0]}
    rows, _ = sweep(config, choices, out, SilentProgress())
    assert sweep(config, choices, out, SilentProgress())[0] == rows
    change(images, "test_labels", 0)
    with pytest.raises(ConfigError, match="the test labels differ"):
        sweep(config, choices, out, SilentProgress())


def test_a_run_whose_weights_changed_is_refused(tiny_run: ep.Run, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    tensors = read_weights(RunFolder(tiny_run.root).baseline)
    files.write_tensors(weights, tensors, {})
    run = tiny_runs.run(tmp_path / "run", {"model.weights": str(weights), "search.generations": 1})
    tensors["out.bias"][3] += 1e-3
    files.write_tensors(weights, tensors, {})
    repeated = {"model.weights": str(weights)}
    for overrides in (repeated, repeated | MORE):
        with pytest.raises(ConfigError, match=r"the weights differ from those .* give the same weights, or start"):
            ep.resume(run.root, overrides=overrides)
    tensors["out.bias"][3] -= 1e-3
    files.write_tensors(weights, read_weights(RunFolder(tiny_run.root).baseline), {"note": "the same, saved again"})
    assert ep.resume(run.root, overrides=repeated | MORE).candidates["generation"].max() == 2


def test_a_run_of_an_older_version_is_recorded_with_a_warning(
    tiny_run: ep.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(tiny_run.root, folder.root)
    folder.identity.unlink()
    with caplog.at_level(logging.WARNING):
        ep.resume(folder.root, overrides={"search.generations": 4})
    assert "does not record the weights and data of its run" in caplog.text
    assert folder.identity.read_bytes() == RunFolder(tiny_run.root).identity.read_bytes()
