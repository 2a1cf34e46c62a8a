"""The search without a config file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import evoprune as ep
from evoprune.config.schema import DataConfig, RetrainConfig, SearchConfig, TrainConfig, WorkersConfig
from evoprune.data.load import Data, load_data
from evoprune.pipeline.evolve import evolve
from evoprune.training.evaluation import count_errors
from evoprune.training.fit import fit

SEARCH = SearchConfig(population=8, generations=2)
SERIAL = WorkersConfig(backend="serial")


class Small(nn.Module):
    """A residual network of somebody's own: no zoo knows it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8 * 49, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.max_pool2d(torch.relu(self.stem(images)), 2)
        maps = maps + torch.relu(self.block(maps))
        return self.head(torch.max_pool2d(maps, 2).view(maps.size(0), -1))


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataConfig(validation=200, calibration=64), seed=0)


@pytest.fixture(scope="module")
def model(data: Data) -> nn.Module:
    torch.manual_seed(0)
    network = Small()
    fit(network, data.train, TrainConfig(epochs=1), seed=0, device=torch.device("cpu"))
    return network


@pytest.fixture(scope="module")
def run(model: nn.Module, data: Data, tmp_path_factory: pytest.TempPathFactory) -> ep.Run:
    images, _ = data.calibration.tensors()
    return evolve(
        model,
        images[:1],
        validation=data.validation.tensors(),
        calibration=images,
        tolerance=0.05,
        train=data.calibration.tensors(),
        search=SEARCH,
        retrain=RetrainConfig(epochs=1),
        workers=SERIAL,
        out=tmp_path_factory.mktemp("evolve") / "run",
    )


def test_survivors_are_compacted_modules(run: ep.Run, data: Data) -> None:
    assert len(run.survivors)
    row = run.survivors.iloc[0]
    small = run.load_survivor(row["key"])
    assert isinstance(small, Small)
    assert sum(parameter.numel() for parameter in small.parameters()) == row["params"]
    errors = count_errors(small, data.validation, torch.device("cpu"))
    assert errors / len(data.validation) == row["mcr_retrained"]
    assert run.survivors["mcr_test"].isna().all()  # there is no test set
    assert 0 < row["macs_ratio"] < 1
    assert run.config.search.tolerance == 0.05


def test_the_same_call_resumes_in_its_folder(run: ep.Run, model: nn.Module, data: Data) -> None:
    before = run.candidates
    images, _ = data.calibration.tensors()
    again = evolve(
        model,
        images[:1],
        validation=DataLoader(TensorDataset(*data.validation.tensors()), batch_size=64),
        calibration=DataLoader(TensorDataset(*data.calibration.tensors()), batch_size=16),
        tolerance=0.05,
        train=data.calibration.tensors(),
        search=SEARCH,
        retrain=RetrainConfig(epochs=1),
        workers=SERIAL,
        out=run.root,
    )
    assert again.candidates.equals(before)  # read, not scored anew: the seconds are the same
    with pytest.raises(ep.UserError, match=r"search\.tolerance cannot change"):
        evolve(
            model,
            images[:1],
            data.validation.tensors(),
            images,
            tolerance=0.01,
            workers=SERIAL,
            search=SEARCH,
            out=run.root,
        )


def test_a_criterion_reads_labels_of_calibration_images_or_the_networks_own_answers(
    model: nn.Module, data: Data, tmp_path: Path
) -> None:
    """Images alone have the first candidates of images with the network's answers, and not those of l1."""
    (images, labels), validation = data.calibration.tensors(), data.validation.tensors()
    with torch.no_grad():
        answers = model.eval()(images).argmax(1)
    taylor = SearchConfig(population=8, generations=1, criterion="taylor")
    cases: list[tuple[str, Any, SearchConfig]] = [
        ("pairs", [(images[:30], labels[:30]), (images[30:], labels[30:])], taylor),
        ("images", images, taylor),
        ("answers", (images, answers), taylor),
        ("l1", images, SearchConfig(population=8, generations=1)),
    ]
    found = [
        evolve(model, images[:1], validation, given, workers=SERIAL, search=settings, out=tmp_path / name)
        for name, given, settings in cases
    ]
    pairs, alone, answered, l1 = (run.candidates[run.candidates.generation == 0].key.tolist() for run in found)
    assert alone == answered
    assert l1 not in (pairs, alone)


def test_the_model_is_left_as_it_was(model: nn.Module, data: Data, tmp_path: Path) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images, _ = data.calibration.tensors()
    run = evolve(
        model, images[:1], data.validation.tensors(), images, workers=SERIAL, search=SEARCH, out=tmp_path / "a"
    )
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    # without training images, survivors stay as the search scored them
    assert (run.survivors["mcr_retrained"] - run.survivors["mcr_search"]).abs().max() <= 0.01


IMAGES, LABELS = torch.zeros(12, 1, 28, 28), torch.arange(12) % 10


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"validation": (IMAGES, LABELS[:5])}, r"validation must have a label or target for each image, not 5 for 12"),
        (
            {"validation": (IMAGES, LABELS.float())},
            r"validation labels must be whole numbers \(n,\), .* torch\.flo",
        ),
        ({"validation": (IMAGES[0], LABELS)}, r"validation must be images \(n, channels, h, w\)"),
        ({"validation": (IMAGES, LABELS + 5)}, r"validation labels must be 0\.\.9, .* not 5\.\.14"),
        ({"validation": (torch.zeros(12, 3, 28, 28), LABELS)}, r"cannot read validation images of shape \(3, 28, 28\)"),
        ({"calibration": torch.zeros(12, 28, 28)}, r"calibration must be images"),
        ({"example_input": torch.zeros(1, 1, 5, 5)}, r"forward fails on an example input of shape \(1, 1, 5, 5\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"example_input": IMAGES[:1], "validation": (IMAGES, LABELS), "calibration": IMAGES}
    with pytest.raises(ep.UserError, match=message):
        evolve(Small(), **(arguments | changed), workers=SERIAL, search=SEARCH, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.jit.trace(Small(), IMAGES[:1]), "not a compiled ScriptModule; give the original one"),
        (lambda: torch.jit.script(Small()), "not a compiled ScriptModule; give the original one"),
        (
            lambda: nn.Sequential(nn.Identity(), torch.jit.script(Small())),
            "1 is a TorchScript module, .*; give the module that it was scripted or traced from",
        ),
        (lazy, "0.weight is not initialised yet, because its layer is lazy; run the network once on an example first"),
        (
            lambda: torch.ao.quantization.quantize_dynamic(Small().eval(), {nn.Linear}),
            "model: the state dict must hold tensors only, but 'head._packed_params.dtype' is a dtype, as in quantised",
        ),
    ],
    ids=["traced", "scripted", "scripted inside", "lazy", "quantised"],
)
def test_a_kind_of_network_that_cannot_be_searched_is_named(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ep.UserError, match=message) as caught:
        evolve(make(), IMAGES[:1], (IMAGES, LABELS), IMAGES, workers=SERIAL, search=SEARCH, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
