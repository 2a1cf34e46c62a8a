import logging
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from evoprune.errors import NetworkError
from evoprune.networks.weight_files import read_weights
from evoprune.networks.weights import load_weights


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


def test_lightning_checkpoints_have_other_tensors_beside_the_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected, average = network().state_dict(), network().state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in expected.items()}
    tensors |= {f"ema_model.{name}": tensor for name, tensor in average.items()} | {"loss.weight": torch.ones(3)}
    torch.save({"state_dict": tensors, "pytorch-lightning_version": "2.4"}, tmp_path / "w.ckpt")
    with caplog.at_level(logging.WARNING):
        taken = read_weights(tmp_path / "w.ckpt", network())
    assert "tensors outside of the network are left out: 'ema_model.0.weight'" in caplog.text
    assert all(torch.equal(tensor, expected[name]) for name, tensor in taken.items())
    assert taken.keys() == expected.keys()
    taken = read_weights(tmp_path / "w.ckpt", network(), averaged=True)
    assert taken.keys() == expected.keys()
    assert all(torch.equal(tensor, average[name]) for name, tensor in taken.items())


def test_two_networks_in_a_file_are_no_weights_of_one(tmp_path: Path) -> None:
    states = {name: network().state_dict() for name in ("student", "teacher")}
    save_file({f"{top}.{n}": t for top, state in states.items() for n, t in state.items()}, tmp_path / "w.safetensors")
    tensors = read_weights(tmp_path / "w.safetensors", network())
    with pytest.raises(NetworkError, match=r"has no tensor '0.weight', which the network needs, but 'student\."):
        load_weights(network(), tensors, "w.safetensors")


@pytest.mark.parametrize("entry", ["ema_state_dict", "model_ema", "state_dict_ema", "ema"])
def test_the_average_is_taken_if_it_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture, entry: str) -> None:
    average = network().state_dict()
    torch.save({"model": network().state_dict(), entry: average}, tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING):
        taken = read_weights(tmp_path / "w.pt", network(), averaged=True)
    assert f"its entry '{entry}' is taken, and 'model' not" in caplog.text
    assert all(torch.equal(tensor, average[name]) for name, tensor in taken.items())


def test_an_averaged_model_of_torch_is_an_average(tmp_path: Path) -> None:
    model = network()
    torch.save(AveragedModel(model).state_dict(), tmp_path / "w.pt")
    for averaged in (False, True):
        taken = read_weights(tmp_path / "w.pt", network(), averaged=averaged)
        assert taken.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("wrapped", "found"), [(True, "'model', 'optimizer'"), (False, "'0.weight', '0.bias', '1.weight', '1.bias'")]
)
def test_a_file_without_an_average_is_refused_if_one_is_asked_for(tmp_path: Path, wrapped: bool, found: str) -> None:
    state = network().state_dict()
    torch.save({"model": state, "optimizer": {}} if wrapped else state, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=r"^model.ema must be false for .*w.pt, which has no average") as caught:
        read_weights(tmp_path / "w.pt", network(), averaged=True)
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_weights(tmp_path / "w.pt", network()).keys() == state.keys()  # the remedy


@pytest.mark.parametrize("entry", ["", "state_dict"])
def test_the_state_dict_of_a_quantised_network_is_refused(tmp_path: Path, entry: str) -> None:
    packed = {
        "0.scale": torch.tensor(0.1),
        "0._packed_params.dtype": torch.qint8,
        "0._packed_params._packed_params": (torch.zeros(3, 2, dtype=torch.int8), None),
    }
    torch.save({entry: packed} if entry else packed, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=r"must hold tensors of floats, not quantised weights \('0._packed_params"):
        read_weights(tmp_path / "w.pt", network())
