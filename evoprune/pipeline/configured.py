"""The network that a config describes, and the weights that it names."""

from pathlib import Path

import torch
from torch import Tensor, nn

from evoprune.config.choices import LIBRARIES
from evoprune.config.schema import Config
from evoprune.errors import NetworkError
from evoprune.networks.libraries import GreyToColour, pretrained_weights
from evoprune.networks.seeding import mixed_seed
from evoprune.networks.weight_files import read_weights
from evoprune.networks.weights import load_weights, load_with_new_head
from evoprune.networks.zoo import build_network
from evoprune.tasks.task import Task
from evoprune.tasks.tasks_by_name import make_task

NETWORK_SEED = 0
"""Mixed with the config's seed for the network's initial weights; stages have seeds of their own."""

_OTHER_CLASSES = (
    "the weights must be of the same network; if it was trained for other classes, set model.head=new, so that its "
    "last layer starts anew and the network is trained"
)


def configured_task(config: Config) -> Task:
    """The task that a config names."""
    return make_task(config.task, config.task_options)


def fresh_network(config: Config, image_shape: tuple[int, int, int], classes: int | None) -> nn.Module:
    """The config's network, initialised from the config's seed alone."""
    generator = torch.Generator().manual_seed(mixed_seed(config.seed, NETWORK_SEED))
    classifies = config.task == "classification"
    return build_network(config.model.network, image_shape, classes, generator, classifies=classifies)


def probe_image(image_shape: tuple[int, int, int]) -> Tensor:
    """A random image (1, c, h, w) for discovery: always the same one, so that the search space is always the same."""
    return torch.randn(1, *image_shape, generator=torch.Generator().manual_seed(0))


def given_weights(config: Config, network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, Tensor] | None:
    """Loads the weights that the config names into the network, which the run trains unless `model.is_trained`.

    Args:
        config: names the weights and says what to do with their last layer.
        network: the config's, freshly initialised.
        image_shape: (c, h, w) of the images that the network reads.

    Returns:
        The weights by the network's names, as they were read; None if the config names none.

    Raises:
        NetworkError: if they cannot be read, or do not fit the network.
    """
    source = config.model.weights
    if source is None:
        return None
    # a network behind a `GreyToColour` has the names of the network alone, with a prefix
    prefix = "network." if isinstance(getattr(network, "colour", None), GreyToColour) else ""
    named = _read_named(config, network.get_submodule(prefix.rstrip(".")))
    weights = {f"{prefix}{name}": tensor for name, tensor in named.items()}
    place = f"model.weights: {source}"
    if config.model.head == "new":
        load_with_new_head(network, weights, torch.zeros(1, *image_shape), place)
    else:
        load_weights(network, weights, place, _OTHER_CLASSES)
    return weights


def _read_named(config: Config, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of `model.weights`, by the network's names. Raises NetworkError."""
    source, name = str(config.model.weights), config.model.network
    if source != "pretrained":
        return read_weights(Path(source), network, averaged=config.model.ema)
    if not name.startswith(LIBRARIES):
        raise NetworkError(
            f"model.weights: pretrained goes with torchvision:NAME and timm:NAME, not with {name}; give a file"
        )
    return pretrained_weights(name)
