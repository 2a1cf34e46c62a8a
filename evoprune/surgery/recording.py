"""Recording of modules' inputs in a forward pass."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def recorded(network: nn.Module, names: Iterable[str], inputs: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    """The arguments of the first call of each named module in a forward pass, in the order of the calls.

    Args:
        network: Runs once.
        names: Names of modules.
        inputs: Arguments of the network's forward.

    Returns:
        Name -> arguments; tensors are copies.
    """
    found: dict[str, tuple[Any, ...]] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if name not in found:  # copies, because later operations may work in place
                found[name] = tuple(value.clone() if isinstance(value, Tensor) else value for value in args)

        return hook

    handles = [network.get_submodule(name).register_forward_pre_hook(record(name)) for name in names]
    try:
        network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
