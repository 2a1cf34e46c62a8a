"""Fresh weights for a network that exists already."""

from collections.abc import Callable

from torch import nn

from evoprune.errors import NetworkError
from evoprune.networks.seeding import global_seed


def initialise(model: nn.Module, seed: int) -> None:
    """Draws all parameters anew, in place, by each layer's own rule and for its present shape.

    Args:
        model: every module with parameters must have `reset_parameters`.
        seed: of the draws.

    Raises:
        NetworkError: if a module has parameters but no `reset_parameters`.
    """
    resets: list[Callable[[], None]] = []
    for name, module in model.named_modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            resets.append(reset)
        elif any(True for _ in module.parameters(recurse=False)):
            raise NetworkError(
                f"retrain.start: anew cannot initialise {name or 'the network'}, because {type(module).__name__} has "
                "no reset_parameters(); add this method, or set retrain.start=keep"
            )
    with global_seed(seed):
        for reset in resets:
            reset()
