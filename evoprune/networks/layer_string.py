"""Networks in the notation of Anwar, Hwang and Sung 2017, section 5: `2x128C3-MP2-2x128C3-MP2-256FC-10`."""

import re
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from torch import nn

from evoprune.errors import NetworkError

_TOKEN = re.compile(
    r"(?:(?P<conv_repeats>\d+)x)?(?P<maps>\d+)C(?P<kernel>\d+)"
    r"|(?:(?P<fc_repeats>\d+)x)?(?P<units>\d+)FC"
    r"|MP(?P<pool>\d+)"
    r"|(?P<classes>\d+)",
    re.ASCII,
)
_LARGEST, _MOST_REPEATS = 65_536, 1000
_FORMS = "write 2x128C3, MP2, 256FC or the number of classes"


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, stride 1, padding (kernel - 1) // 2; then batch norm and ReLU."""

    maps: int
    kernel: int
    place: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class MaxPool:
    """Max pooling over size x size pixels with stride `size`."""

    size: int
    place: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class Hidden:
    """A linear layer with bias and ReLU."""

    units: int
    place: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class Output:
    """The classifier: a linear layer with bias, one output for each class."""

    classes: int
    place: str = field(default="", compare=False, repr=False)


Layer = Conv | MaxPool | Hidden | Output


def _check_sizes(token: str, place: str) -> None:
    """Refuses sizes that only a typing error or a hostile config can have."""
    sizes = [int(size) for size in re.findall(r"\d+", token, re.ASCII)]
    repeats = re.match(r"(\d+)x", token, re.ASCII)
    if max(sizes, default=0) > _LARGEST or (repeats and int(repeats[1]) > _MOST_REPEATS):
        raise NetworkError(f"{place} must have sizes of {_LARGEST} and repeats of {_MOST_REPEATS} at most; {_FORMS}")


def parse_layer_string(text: str) -> tuple[Layer, ...]:
    """Parses a layer string: `2x16C3-MP2-10` -> (Conv(16, 3), Conv(16, 3), MaxPool(2), Output(10)).

    Returns:
        The layers, each with its place in the text for messages.

    Raises:
        NetworkError: names the token that cannot be parsed.
    """
    tokens = text.split("-")
    layers: list[Layer] = []
    for number, token in enumerate(tokens, start=1):
        place = f"model.network: {token!r} (token {number} of {text!r})"
        _check_sizes(token, place)
        parsed = _parse_token(token, place)
        last = number == len(tokens)
        if isinstance(parsed[0], Output) and not last:
            raise NetworkError(f"{place} is the number of classes and must come last; {_FORMS}")
        if last and not isinstance(parsed[0], Output):
            raise NetworkError(f"{place} is the last layer but must be the number of classes; append as in -10")
        flat = any(isinstance(layer, Hidden) for layer in layers)
        if flat and isinstance(parsed[0], Conv | MaxPool):
            raise NetworkError(f"{place} reads images but comes after a hidden layer; put it before the first FC")
        layers += parsed
    return tuple(layers)


def _parse_token(token: str, place: str) -> list[Layer]:
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise NetworkError(f"{place} is not a layer; {_FORMS}")
    numbers = {name: int(digits) for name, digits in match.groupdict().items() if digits is not None}
    if 0 in numbers.values():
        raise NetworkError(f"{place} has a 0; every number in it must be 1 or more")
    if "maps" in numbers:
        return [Conv(numbers["maps"], numbers["kernel"], place)] * numbers.get("conv_repeats", 1)
    if "units" in numbers:
        return [Hidden(numbers["units"], place)] * numbers.get("fc_repeats", 1)
    if "pool" in numbers:
        return [MaxPool(numbers["pool"], place)]
    return [Output(numbers["classes"], place)]


def build_layers(layers: tuple[Layer, ...], image_shape: tuple[int, int, int], classes: int | None) -> nn.Sequential:
    """Builds the network of parsed layers, initialised from PyTorch's global generator.

    Args:
        layers: from `parse_layer_string`.
        image_shape: (c, h, w).
        classes: the number of outputs; None: as the last layer says.

    Returns:
        A network with the modules conv1, norm1, relu1, pool1, ..., flatten, fc1, ..., out.

    Raises:
        NetworkError: if a layer leaves less than one pixel or the last number is not `classes`.
    """
    maps, height, width = image_shape
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    counts: Counter[str] = Counter()

    def add(kind: str, module: nn.Module) -> None:
        counts[kind] += 1
        modules[f"{kind}{counts[kind]}"] = module

    for layer in layers:
        if isinstance(layer, Conv | MaxPool):
            height, width = _reduced(height, layer), _reduced(width, layer)
        elif "flatten" not in modules:
            modules["flatten"] = nn.Flatten()
            maps = maps * height * width
        match layer:
            case Conv(out_maps, kernel):
                add("conv", nn.Conv2d(maps, out_maps, kernel, padding=(kernel - 1) // 2, bias=False))
                add("norm", nn.BatchNorm2d(out_maps))
                add("relu", nn.ReLU())
                maps = out_maps
            case MaxPool(size):
                add("pool", nn.MaxPool2d(size))
            case Hidden(units):
                add("fc", nn.Linear(maps, units))
                add("relu", nn.ReLU())
                maps = units
            case Output(outputs):
                if classes is not None and outputs != classes:
                    raise NetworkError(f"{layer.place} is not the data set's number of classes; write {classes}")
                modules["out"] = nn.Linear(maps, outputs)
    return nn.Sequential(modules)


def _reduced(pixels: int, layer: Conv | MaxPool) -> int:
    """The side of the layer's output in pixels, for an input with a side of `pixels`."""
    if isinstance(layer, MaxPool):
        left = pixels // layer.size
    else:
        left = pixels + 2 * ((layer.kernel - 1) // 2) - layer.kernel + 1
    if left < 1:
        raise NetworkError(f"{layer.place} leaves nothing of {pixels} pixels a side; remove it or make it smaller")
    return left
