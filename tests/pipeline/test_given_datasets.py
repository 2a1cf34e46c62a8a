"""`ep.evolve` and `data.dataset` on the data sets that users have: the same run whatever the images come in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import evoprune as ep
from evoprune.data import dataset_images
from evoprune.data.dataset_images import DatasetImages
from evoprune.tasks.classification import Classification
from tests import tiny_runs

CLASSES, SIDE = 4, 8
SEARCH = ep.SearchConfig(population=4, generations=1, tolerance=0.5)
RETRAIN = ep.RetrainConfig(survivors=1, epochs=2, batch_size=16)
SERIAL = ep.WorkersConfig(backend="serial")


def pixels(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Whole numbers 0..255, so that they are the same in files; the brightest row is the class."""
    labels = torch.arange(count) % CLASSES
    images = torch.randint(0, 100, (count, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * int(label)] += 150
    return images.float() / 255, labels


VALIDATION, TRAIN = pixels(32, 0), pixels(48, 1)


class Network(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, CLASSES)
        )


@pytest.fixture(scope="module")
def model() -> nn.Module:
    network = Network()
    optimiser = torch.optim.SGD(network.parameters(), 0.5)
    for _ in range(30):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(TRAIN[0]), TRAIN[1]).backward()
        optimiser.step()
    return network.eval()


def evolve(model: nn.Module, train: Any, out: Path, validation: Any = VALIDATION, **options: Any) -> ep.Run:
    return ep.evolve(
        model, TRAIN[0][:1], validation, TRAIN[0][:16],
        train=train, search=SEARCH, retrain=RETRAIN, workers=options.pop("workers", SERIAL), out=out, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    """On tensors in memory, with which the others are compared."""
    return evolve(model, TRAIN, tmp_path_factory.mktemp("runs") / "tensors")


@dataclass
class Example:
    picture: Tensor
    kind: Tensor


class Examples(Dataset[Example]):
    def __len__(self) -> int:
        return len(TRAIN[1])

    def __getitem__(self, index: int) -> Example:
        return Example(TRAIN[0][index], TRAIN[1][index])


class PicksExamples(Classification):
    def inputs_and_targets(self, batch: Any) -> tuple[Any, Any]:
        return batch["picture"], batch["kind"]


def collate(items: list[Example]) -> dict[str, Tensor]:
    return {"picture": torch.stack([item.picture for item in items]), "kind": torch.stack([i.kind for i in items])}


class FolderOfImages(Dataset[tuple[Tensor, int]]):
    """Files that are read one by one."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.png"))
        self.reads = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        path = self.paths[index]
        return torch.from_numpy(np.array(Image.open(path), np.float32)[None] / 255), int(path.stem.split("-")[1])


def dictionaries() -> list[dict[str, Any]]:
    return [{"img": image, "labels": int(label), "name": "x"} for image, label in zip(*TRAIN, strict=True)]


class Mappings(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return len(TRAIN[1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dictionaries()[index]


def hugging_face(images: Tensor, labels: Tensor) -> Any:
    return datasets.Dataset.from_dict({"image": images.numpy(), "label": labels.numpy()}).with_format("torch")


SOURCES: dict[str, tuple[Callable[[], Any], type[Classification] | None]] = {
    "data set": (lambda: TensorDataset(*TRAIN), None),
    "loader": (lambda: DataLoader(TensorDataset(*TRAIN), batch_size=10, shuffle=True), None),
    "loader with processes": (lambda: DataLoader(TensorDataset(*TRAIN), batch_size=10, num_workers=1), None),
    "dictionaries": (Mappings, None),
    "loader of dictionaries": (lambda: DataLoader(Mappings(), batch_size=7), None),
    "collated data classes": (lambda: DataLoader(Examples(), batch_size=7, collate_fn=collate), PicksExamples),
    "data classes": (Examples, PicksExamples),
    "Hugging Face": (lambda: hugging_face(*TRAIN), None),
}


@pytest.mark.parametrize("most_bytes", [1 << 30, 0], ids=["held", "read on demand"])
@pytest.mark.parametrize(("source", "task"), SOURCES.values(), ids=SOURCES.keys())
def test_the_run_is_the_same_whatever_the_images_come_in(
    model: nn.Module,
    run: ep.Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Callable[[], Any],
    task: type[Classification] | None,
    most_bytes: int,
) -> None:
    monkeypatch.setattr(dataset_images, "HELD_BYTES", most_bytes)
    tiny_runs.check_equal(evolve(model, source(), tmp_path / "run", task=task), run)


def test_scoring_sets_may_be_hugging_faces(model: nn.Module, run: ep.Run, tmp_path: Path) -> None:
    tiny_runs.check_equal(evolve(model, TRAIN, tmp_path / "run", hugging_face(*VALIDATION)), run)


def write_images(folder: Path) -> None:
    for index, (image, label) in enumerate(zip(*TRAIN, strict=True)):
        pixels = (image[0] * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{index:03}-{int(label)}.png")


def test_a_folder_larger_than_the_bound_is_never_held(
    model: nn.Module, run: ep.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    write_images(tmp_path / "images")
    monkeypatch.setattr(dataset_images, "HELD_BYTES", 10 * SIDE * SIDE * 4)
    largest = 0
    read = DatasetImages.read_ahead

    def watched(images: DatasetImages, batches: Any) -> Any:
        nonlocal largest
        largest = max([largest, *map(len, batches)])
        return read(images, batches)

    monkeypatch.setattr(DatasetImages, "read_ahead", watched)
    source = FolderOfImages(tmp_path / "images")
    found = evolve(model, source, tmp_path / "run")
    tiny_runs.check_equal(found, run)
    assert largest <= max(RETRAIN.batch_size, 48)  # a batch, or the teacher's
    assert source.reads >= 2 + 48 + RETRAIN.epochs * 48
    again = evolve(model, FolderOfImages(tmp_path / "images"), tmp_path / "run")  # finished, and of the same images
    tiny_runs.check_equal(again, found)
    (source.paths[7]).write_bytes(source.paths[8].read_bytes())
    with pytest.raises(ep.UserError, match="the train images differ from those that the run"):
        evolve(model, FolderOfImages(tmp_path / "images"), tmp_path / "run")


def test_workers_of_other_processes_read_the_images(
    model: nn.Module, run: ep.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_ray: None
) -> None:
    monkeypatch.setattr(dataset_images, "HELD_BYTES", 0)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    workers = ep.WorkersConfig(backend="ray", count=1)
    found = evolve(model, DataLoader(Mappings(), batch_size=7, num_workers=1), tmp_path / "run", workers=workers)
    assert found.survivors["key"].tolist() == run.survivors["key"].tolist()
    assert found.survivors["mcr_retrained"].tolist() == run.survivors["mcr_retrained"].tolist()


MODULE = """
import torch
from torch.utils.data import Dataset

class Bars(Dataset):
    def __init__(self, count, seed):
        self.labels = torch.arange(count) % 4
        self.images = torch.randint(0, 100, (count, 8, 8), dtype=torch.uint8)
        for image, label in zip(self.images, self.labels):
            image[2 * int(label)] += 150
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, index):
        return {"image": self.images[index], "label": int(self.labels[index])}

def bars():
    torch.manual_seed(0)
    return Bars(120, 0), Bars(30, 1)
"""


def test_a_data_set_of_a_config_is_read_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given_bars.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    settings = tiny_runs.BRIEF | {"data.dataset": "given_bars:bars", "model.network": "4C3-MP2-4"}
    held = tiny_runs.run(tmp_path / "held", settings)
    monkeypatch.setattr(dataset_images, "HELD_BYTES", 0)
    found = tiny_runs.run(tmp_path / "lazy", settings)
    tiny_runs.check_equal(found, held)
