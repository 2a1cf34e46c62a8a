import logging
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from evoprune.errors import NetworkError
from evoprune.networks.weights import load_weights, read_weights


def network(units: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, units), nn.BatchNorm1d(units))


def test_both_formats_give_the_same_tensors(tmp_path: Path) -> None:
    state = network().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pt"):
        model = network()
        load_weights(model, read_weights(path), str(path))
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "model.pt")
    with pytest.raises(NetworkError, match="holds no weights that can be read safely") as caught:
        read_weights(tmp_path / "model.pt")
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state": network().state_dict()}, tmp_path / "checkpoint.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(NetworkError, match="must hold named tensors, not the entries 'epoch', 'state'; save"):
        read_weights(tmp_path / "checkpoint.pt")
    with pytest.raises(NetworkError, match="can be read safely"):
        read_weights(tmp_path / "cut.safetensors")
    with pytest.raises(NetworkError, match="there is no file"):
        read_weights(tmp_path / "missing.pt")


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


@pytest.mark.parametrize("entry", ["state_dict", "model_state_dict", "model", "ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_checkpoints_as_people_have_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, entry: str, prefix: str
) -> None:
    expected = network().state_dict()
    named = {prefix + name: tensor for name, tensor in expected.items()}
    torch.save({"epoch": 3, entry: named, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING):
        tensors = read_weights(tmp_path / "w.pt", network())
    assert f"its entry '{entry}' is taken" in caplog.text
    assert (f"tensor '{prefix}0.weight' is taken as the network's '0.weight'" in caplog.text) == bool(prefix)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())


def test_the_average_is_named_but_not_taken_beside_the_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = network().state_dict()
    torch.save({"ema": network().state_dict(), "model": state}, tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING):
        tensors = read_weights(tmp_path / "w.pt")
    assert "its entry 'model' is taken, and 'ema' not" in caplog.text
    assert all(torch.equal(tensor, state[name]) for name, tensor in tensors.items())


def test_names_that_are_the_networks_own_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrapped = nn.Sequential()
    wrapped.module = network()
    inner = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    compiled_inside = {"0.weight": 0, "0.bias": 1, "1._orig_mod.weight": 2, "1._orig_mod.bias": 3}
    save_file(wrapped.state_dict(), tmp_path / "w.safetensors")
    torch.save({name: torch.full((2,), float(i)) for name, i in compiled_inside.items()}, tmp_path / "c.pt")
    assert read_weights(tmp_path / "w.safetensors", wrapped).keys() == wrapped.state_dict().keys()
    assert not caplog.records
    assert read_weights(tmp_path / "w.safetensors", nn.Conv2d(1, 1, 1)).keys() == wrapped.state_dict().keys()
    assert read_weights(tmp_path / "c.pt", inner).keys() == inner.state_dict().keys()


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(network().state_dict(), tmp_path / "w.safetensors")
    assert read_weights(Path("~/w.safetensors")).keys() == network().state_dict().keys()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.tensor([1.0, math.nan]), "tensor 'b' must be finite numbers"),
        (torch.tensor([1.0, -math.inf]).half(), "tensor 'b' must be finite numbers"),
        (torch.zeros(2, 2).to_sparse(), "tensor 'b' must be dense"),
        (torch.zeros(1).expand(10**9), "tensor 'b' of shape .1000000000,. repeats its numbers"),
        (torch.zeros(2, device="meta"), "tensor 'b' must be dense|holds no weights"),
    ],
)
def test_tensors_that_are_no_weights_are_named(tmp_path: Path, tensor: torch.Tensor, message: str) -> None:
    torch.save({"a": torch.zeros(2), "b": tensor}, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=message) as caught:
        read_weights(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_no_weights() -> None:
    state = network().state_dict() | {"0.weight": torch.zeros(3, 2, dtype=torch.int8)}
    with pytest.raises(NetworkError, match=r"tensor '0.weight' must be of floats, .* not int8; .* not quantised"):
        load_weights(network(), state, "w.pt")
