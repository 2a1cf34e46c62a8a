"""A network's weights as if nobody had trained it."""

from collections.abc import Callable

from torch import nn

from evoprune.errors import NetworkError
from evoprune.networks.seeding import global_seed


def initialise(model: nn.Module, seed: int) -> None:
    """Draws every parameter anew, in place, as PyTorch's layers do when they are made: for the shapes they have now.

    Raises NetworkError where a module has parameters but no `reset_parameters`.
    """
    resets: list[Callable[[], None]] = []
    for name, module in model.named_modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            resets.append(reset)
        elif any(True for _ in module.parameters(recurse=False)):
            raise NetworkError(
                f"retrain.start: anew cannot initialise {name or 'the network'}, for {type(module).__name__} has no "
                "reset_parameters(); give it one, or take keep"
            )
    with global_seed(seed):
        for reset in resets:
            reset()
