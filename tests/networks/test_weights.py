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
    with pytest.raises(NetworkError, match="more than named tensors"):
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
    with pytest.raises(NetworkError, match=r"has no tensor '1.weight'"):
        load_weights(model, missing, "w.pt")
    with pytest.raises(NetworkError, match=r"has a tensor 'extra'"):
        load_weights(model, before | {"extra": torch.zeros(1)}, "w.pt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_count_of_batches_may_be_missing() -> None:
    state = {name: t for name, t in network().state_dict().items() if "num_batches" not in name}
    load_weights(network(), state, "w.pt")
