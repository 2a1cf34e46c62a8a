import pytest
import torch

from evoprune.errors import ConfigError
from evoprune.training.devices import resolve_device

CPU = torch.device("cpu")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_device("cpu") == resolve_device("auto") == CPU
    with pytest.raises(ConfigError, match="device: 'cuda:1' is not there"):
        resolve_device("cuda:1")
    with pytest.raises(ConfigError, match="device: 'gpu' is not a device"):
        resolve_device("gpu")
