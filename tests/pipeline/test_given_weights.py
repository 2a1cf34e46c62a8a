"""Weights that a config names, in the forms in which people have them."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.errors import ConfigError, NetworkError
from evoprune.networks.libraries import GreyToColour
from evoprune.networks.zoo import build_network
from evoprune.pipeline.configured import given_weights
from evoprune.progress import SilentProgress
from evoprune.record import files
from evoprune.record.folder import RunFolder
from tests import tiny_runs

SHAPE = (1, 14, 14)
TRUSTED: dict[str, object] = {"data.dataset": tiny_runs.BRIEF["data.dataset"]}


def trained_for(classes: int, tmp_path: Path) -> Path:
    """A file with weights of the network of `tiny_runs.BRIEF` for another number of classes."""
    network = build_network(f"4C3-MP7-{classes}", SHAPE, classes, torch.Generator().manual_seed(7))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_weights_for_other_classes_are_refused_with_a_remedy_that_works(tmp_path: Path) -> None:
    weights = trained_for(7, tmp_path)
    settings = tiny_runs.BRIEF | {"model.weights": str(weights), "train.epochs": 2}
    with pytest.raises(NetworkError, match=r"'out.weight' has shape \(7, 16\).* set model.head=new, so that its last"):
        tiny_runs.run(tmp_path / "refused", settings)
    assert not (tmp_path / "refused").exists()
    run = tiny_runs.run(tmp_path / "run", settings | {"model.head": "new", "retrain.start": "rewind_weights"})
    given = torch.load(weights)["state_dict"]["conv1.weight"]
    trained, _ = files.read_tensors(RunFolder(run.root).baseline)
    assert trained["out.weight"].shape == (10, 16)
    assert 0 < (trained["conv1.weight"] - given).norm() < 0.5 * given.norm()  # trained from there, not from elsewhere
    assert len(run.survivors) == 1


def test_a_run_with_a_new_head_remembers_the_weights_that_it_started_from(tmp_path: Path) -> None:
    weights = trained_for(7, tmp_path)
    settings = tiny_runs.BRIEF | {"model.weights": str(weights), "model.head": "new"}
    run = tiny_runs.run(tmp_path / "run", settings)
    more = TRUSTED | {"search.generations": 2}
    torch.save({"conv1.weight": torch.ones(4, 1, 3, 3)}, weights)
    assert len(ep.resume(run.root, overrides=more).generations) == 3  # trained by now, so they are not read
    trained_for(8, tmp_path)
    with pytest.raises(ConfigError, match="the weights differ from those"):
        ep.resume(run.root, overrides=TRUSTED | {"model.weights": str(weights)})


def test_an_interrupted_training_of_a_new_head_goes_on_as_if_it_were_not(tmp_path: Path) -> None:
    class Stop(ep.UserError):
        pass

    class Interrupting(SilentProgress):
        def epoch(self, network: str, epoch: int, epochs: int, loss: float) -> None:
            raise Stop("after an epoch")

    weights = str(trained_for(7, tmp_path))
    settings = tiny_runs.BRIEF | {"model.weights": weights, "model.head": "new", "train.epochs": 2}
    whole = tiny_runs.run(tmp_path / "whole", settings)
    with pytest.raises(Stop):
        tiny_runs.run(tmp_path / "stopped", settings, Interrupting())
    tiny_runs.check_equal(ep.resume(tmp_path / "stopped", overrides=TRUSTED | {"model.weights": weights}), whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.head": "new"}, "model must have weights with head new"),
        ({"model.ema": True}, "model must have ema false unless weights is a file"),
        ({"model.ema": True, "model.weights": "pretrained"}, "model must have ema false unless weights is a file"),
        ({"model.weights": "w.pt", "retrain.start": "rewind_weights"}, "model.weights must be null with retrain.start"),
    ],
)
def test_options_of_weights_that_there_are_not(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_runs.config(settings)


def test_the_average_is_an_option(tmp_path: Path) -> None:
    network = build_network("4C3-MP7-10", SHAPE, 10, torch.Generator().manual_seed(7))
    average = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": network.state_dict(), "state_dict_ema": average}, tmp_path / "w.pt")
    for is_averaged, expected in ((False, network.state_dict()), (True, average)):
        settings = tiny_runs.BRIEF | {"model.weights": str(tmp_path / "w.pt"), "model.ema": is_averaged}
        weights = given_weights(tiny_runs.config(settings), network, SHAPE)
        assert weights is not None
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())


@pytest.mark.parametrize("prefix", ["", "network.", "module."])
def test_weights_of_a_network_of_colour_images_go_behind_a_grey_input(tmp_path: Path, prefix: str) -> None:
    head = nn.Linear(4, 10)
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    network = nn.Sequential(OrderedDict(colour=GreyToColour(), network=inner))
    torch.save({f"{prefix}{name}": tensor + 1 for name, tensor in inner.state_dict().items()}, tmp_path / "w.pt")
    before = head.weight.detach().clone()
    given_weights(tiny_runs.config({"model.weights": str(tmp_path / "w.pt")}), network, SHAPE)
    assert torch.equal(head.weight, before + 1)
