import logging

import pytest
import torch
from torch import Tensor, nn

from evoprune.errors import NetworkError
from evoprune.networks.weights import load_weights, load_with_new_head

IMAGES = torch.zeros(1, 1, 4, 4)


def network(units: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, units), nn.BatchNorm1d(units))


def classifier(classes: int, maps: int = 2) -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(1, maps, 3), nn.BatchNorm2d(maps), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return layers.append(nn.Linear(maps, classes))


def test_first_tensor_that_does_not_fit_is_named() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wide = network(4).state_dict()
    with pytest.raises(NetworkError, match=r"^w.pt: tensor '0.weight' has shape \(4, 2\).* \(3, 2\)"):
        load_weights(model, wide, "w.pt")
    missing = {name: tensor for name, tensor in before.items() if name != "1.weight"}
    with pytest.raises(NetworkError, match=r"has no tensor '1.weight', which .*, but '0.weight', '0.bias'"):
        load_weights(model, missing, "w.pt")
    with pytest.raises(NetworkError, match=r"has a tensor 'extra'"):
        load_weights(model, before | {"extra": torch.zeros(1)}, "w.pt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_count_of_batches_may_be_missing() -> None:
    state = {name: t for name, t in network().state_dict().items() if "num_batches" not in name}
    load_weights(network(), state, "w.pt")


def test_integer_tensors_are_no_weights() -> None:
    state = network().state_dict() | {"0.weight": torch.zeros(3, 2, dtype=torch.int8)}
    with pytest.raises(NetworkError, match=r"tensor '0.weight' must be of floats, .* not int8; .* not quantised"):
        load_weights(network(), state, "w.pt")


# --- a new last layer


def load_new_head(caplog: pytest.LogCaptureFixture, model: nn.Module, tensors: dict[str, Tensor]) -> str:
    with caplog.at_level(logging.WARNING):
        load_with_new_head(model, tensors, IMAGES, "w.pt")
    return caplog.text


def test_only_the_last_layer_starts_anew(caplog: pytest.LogCaptureFixture) -> None:
    model, given = classifier(5), classifier(7).state_dict()
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    text = load_new_head(caplog, model, given)
    assert "'4.weight' (7, 2) becomes (5, 2), '4.bias' (7,) becomes (5,)" in text
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh[name] if name.startswith("4.") else given[name])


def test_a_missing_last_layer_starts_anew(caplog: pytest.LogCaptureFixture) -> None:
    given = {name: tensor for name, tensor in classifier(7).state_dict().items() if not name.startswith("4.")}
    assert "'4.weight' (missing) becomes (5, 2)" in load_new_head(caplog, classifier(5), given)


def test_a_last_layer_that_fits_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    model, given = classifier(5), classifier(5).state_dict()
    assert "so nothing starts anew" in load_new_head(caplog, model, given)
    assert all(torch.equal(tensor, given[name]) for name, tensor in model.state_dict().items())


def test_other_layers_must_fit() -> None:
    model = classifier(5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(NetworkError, match=r"tensor '0.weight' has shape \(3, .*, but for its last layer \(4\)$"):
        load_with_new_head(model, classifier(7, maps=3).state_dict(), IMAGES, "w.pt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_last_layer_is_the_one_that_runs_last() -> None:
    class Backwards(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.head = nn.Linear(2, classes)
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.conv(images).mean((2, 3)))

    model, given = Backwards(5), Backwards(7).state_dict()
    load_with_new_head(model, given, IMAGES, "w.pt")
    assert torch.equal(model.conv.weight, given["conv.weight"])
