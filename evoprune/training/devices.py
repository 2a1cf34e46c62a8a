"""The device that networks are trained and scored on."""

import torch

from evoprune.errors import ConfigError


def resolve_device(text: str) -> torch.device:
    """The device that the config key `device` names.

    Args:
        text: `auto` (the first GPU if there is one), `cpu`, `cuda` or `cuda:1`.

    Raises:
        ConfigError: if there is no such device.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto":
        return torch.device("cuda" if gpus else "cpu")
    kind, _, number = text.partition(":")
    known = text in ("cpu", "cuda") or (kind == "cuda" and number.isdecimal())
    if not known:
        raise ConfigError(f"device: {text!r} is not a device; write auto, cpu, cuda or cuda:1")
    if kind == "cuda" and int(number or 0) >= gpus:
        raise ConfigError(f"device: {text!r} is not there (PyTorch finds {gpus} CUDA devices); write auto or cpu")
    return torch.device(text)
