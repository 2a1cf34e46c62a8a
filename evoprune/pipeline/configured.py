"""The network that a config describes, and the weights that it names."""

from pathlib import Path

import torch
from torch import Tensor, nn

from evoprune.config.schema import Config
from evoprune.errors import NetworkError
from evoprune.networks.seeding import mixed_seed
from evoprune.networks.weights import load_weights, read_weights
from evoprune.networks.zoo import TORCHVISION, GreyToColour, build_network, pretrained_weights

NETWORK_SEED = 0
"""Mixed with the config's seed for the network's initial weights; stages have seeds of their own."""


def fresh_network(config: Config, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The config's network, initialised from the config's seed alone."""
    generator = torch.Generator().manual_seed(mixed_seed(config.seed, NETWORK_SEED))
    return build_network(config.model.network, image_shape, classes, generator)


def probe_image(image_shape: tuple[int, int, int]) -> Tensor:
    """A random image (1, c, h, w) for discovery: always the same one, so that the search space is always the same."""
    return torch.randn(1, *image_shape, generator=torch.Generator().manual_seed(0))


def given_weights(config: Config, network: nn.Module) -> dict[str, Tensor] | None:
    """Loads the weights that the config names into the network. Returns them, or None if the network is to be trained.

    Raises:
        NetworkError: if they cannot be read, or do not fit the network.
    """
    source = config.model.weights
    if source is None:
        return None
    if source == "pretrained":
        name = config.model.network
        if not name.startswith(TORCHVISION):
            raise NetworkError(f"model.weights: pretrained goes with torchvision:NAME, not with {name}; give a file")
        weights = pretrained_weights(name.removeprefix(TORCHVISION))
        if isinstance(getattr(network, "colour", None), GreyToColour):
            weights = {f"network.{tensor}": value for tensor, value in weights.items()}
    else:
        weights = read_weights(Path(source), network)
    load_weights(network, weights, source)
    return weights
