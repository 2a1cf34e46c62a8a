"""Layers whose filter a forward pass computes from parameters, and networks of them."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune


class Standardised(nn.Conv2d):
    """Weight standardisation, as in BiT."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (self.weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ScaledStandardised(nn.Conv2d):
    """As in timm's normaliser-free networks: by batch norm over the filter, with a gain for each output map."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)
        self.scale = self.weight[0].numel() ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        scale = (self.gain * self.scale).view(-1)
        weight = F.batch_norm(flat, None, None, weight=scale, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Equalised(nn.Module):
    """Equalised learning rate, with weight and bias that no module of PyTorch owns."""

    def __init__(self, inputs: int, outputs: int, size: int, padding: int = 0) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(outputs, inputs, size, size)),
            nn.Parameter(torch.randn(outputs)),
        )
        self.scale, self.padding = (2 / (inputs * size * size)) ** 0.5, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias * 0.5, padding=self.padding)


class Merged(nn.Module):
    """A low-rank update (LoRA) that each forward adds to the weight."""

    def __init__(self, inputs: int, outputs: int, size: int, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=padding)
        self.down, self.up = nn.Parameter(torch.randn(4, inputs * size * size)), nn.Parameter(torch.randn(outputs, 4))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight + 0.1 * (self.up @ self.down).view(self.conv.weight.shape)
        return F.conv2d(x, weight, self.conv.bias, padding=self.conv.padding)


class _StandardisedWeight(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return F.layer_norm(weight, weight.shape[1:])


def parametrised(*args: Any, **options: Any) -> nn.Module:
    """A convolution with a parametrisation of the user's own."""
    conv = nn.Conv2d(*args, **options)
    parametrize.register_parametrization(conv, "weight", _StandardisedWeight())
    return conv


def pruned(*args: Any, **options: Any) -> nn.Module:
    """A convolution with a mask over its single weights."""
    conv = nn.Conv2d(*args, **options)
    prune.l1_unstructured(conv, "weight", 0.3)
    return conv


def _old(norm: Any) -> Callable[..., nn.Module]:
    def make(*args: Any, **options: Any) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return norm(nn.Conv2d(*args, **options))

    return make


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "standardised": Standardised,
    "scaled standardised": ScaledStandardised,
    "equalised": Equalised,
    "merged": Merged,
    "parametrised": parametrised,
    "pruned": pruned,
    "old weight norm": _old(nn.utils.weight_norm),
    "weight norm": lambda *args, **options: parametrizations.weight_norm(nn.Conv2d(*args, **options)),
    "old spectral norm": _old(nn.utils.spectral_norm),
    "spectral norm": lambda *args, **options: parametrizations.spectral_norm(nn.Conv2d(*args, **options)),
}
"""Kinds of layers, made as `nn.Conv2d` is."""

NORMALISED = {"standardised", "scaled standardised", "parametrised", "old weight norm", "weight norm"}


class Residual(nn.Module):
    """Three convolutions of one kind, a residual addition, and a plain head."""

    def __init__(self, make: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.a, self.b = make(3, 16, 3, padding=1), make(16, 16, 3, padding=1)
        self.c, self.norm, self.head = make(16, 24, 3, padding=1), nn.BatchNorm2d(16), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.sigmoid(self.a(x))  # a removed map is not zero here
        return self.head(self.c(a + self.norm(self.b(a)).relu()).relu().mean((2, 3)))


class Depthwise(nn.Module):
    """A depthwise filter that no convolution owns, for as many maps as there are."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3), nn.Linear(24, 10)
        self.kind = kind
        if kind == "parameter":
            self.taps = nn.Parameter(torch.randn(16, 1, 3, 3))
        elif kind == "buffer":
            self.register_buffer("taps", torch.randn(16, 1, 3, 3))
        else:
            self.register_buffer("taps", torch.randn(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        taps = self.get_parameter("taps") if self.kind == "parameter" else self.get_buffer("taps")
        if self.kind == "expanded":
            taps = taps.expand(x.shape[1], 1, 3, 3)
        elif self.kind == "repeated":
            taps = taps.repeat(x.shape[1], 1, 1, 1)
        return self.head(self.b(F.conv2d(x, taps, groups=x.shape[1])).relu().mean((2, 3)))
