"""Weights from files, and into networks."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evoprune.errors import NetworkError

_REMEDY = "the weights must be of the same network"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a state dict that torch.save wrote; on the CPU.

    A state dict is read with weights_only=True: no code of the file's is run.
    Raises NetworkError where the file is missing, damaged or holds anything but named tensors.
    """
    if not path.is_file():
        raise NetworkError(f"model.weights: there is no file {path}; give a safetensors or a state dict file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise NetworkError(
            f"model.weights: {path} holds no weights that can be read safely ({type(error).__name__}); "
            "save a safetensors file, or torch.save(model.state_dict(), path)"
        ) from error
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise NetworkError(
            f"model.weights: {path} holds more than named tensors; save torch.save(model.state_dict(), path) alone"
        )
    return dict(tensors)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copies the tensors into the model's parameters and buffers; names and shapes must be the model's.

    source: where they came from, for the message. Batch norm's count of batches may be missing.
    Raises NetworkError, before anything is copied, that names the first tensor that does not fit.
    """
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            if name.endswith("num_batches_tracked"):
                continue
            raise NetworkError(f"{source}: has no tensor {name!r}, which the network needs; {_REMEDY}")
        if tensors[name].shape != tensor.shape:
            raise NetworkError(
                f"{source}: tensor {name!r} has shape {tuple(tensors[name].shape)}, "
                f"but the network's has {tuple(tensor.shape)}; {_REMEDY}"
            )
    unknown = next((name for name in tensors if name not in own), None)
    if unknown is not None:
        raise NetworkError(f"{source}: has a tensor {unknown!r}, which the network has not; {_REMEDY}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
