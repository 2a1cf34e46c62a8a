"""Small networks on real digits, as problems to score against."""

import copy
import functools
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evoprune.config.schema import DataConfig
from evoprune.data.load import Data, load_data
from evoprune.discovery.discover import search_space
from evoprune.networks.mobilenet import InvertedResidual
from evoprune.networks.resnet import small_resnet
from evoprune.networks.zoo import build_network
from evoprune.scoring.execution import Execution
from evoprune.scoring.problem import make_problem
from evoprune.scoring.scorer import Problem
from evoprune.space.search_space import SearchSpace
from evoprune.surgery.recalibration import recalibrate

CPU = torch.device("cpu")
PIXELS = 14


@functools.cache
def digits() -> Data:
    """The mnist5k digits."""
    return load_data(DataConfig(validation=200, calibration=64), seed=0)


class Concatenating(nn.Module):
    """Every convolution reads all maps before it, as in a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(10)
        self.conv3 = nn.Conv2d(10, 8, 3, stride=2, bias=False)
        self.norm3 = nn.BatchNorm2d(8)
        self.out = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm1(self.conv1(images)).relu()
        maps = self.norm2(torch.cat([maps, self.conv2(maps)], 1)).relu()
        return self.out(self.norm3(self.conv3(maps)).relu().mean((2, 3)))


def _without_norm() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, 3),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(8, 8, 3, stride=2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc=nn.Linear(8 * 5 * 5, 16),
            relu3=nn.ReLU(),
            out=nn.Linear(16, 10),
        )
    )


def _inverted_residuals() -> nn.Module:
    """The blocks of MobileNetV2: one that adds its input and one that halves height and width."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
            norm=nn.BatchNorm2d(8),
            relu=nn.ReLU6(),
            adding=InvertedResidual(8, 8, stride=1, expansion=2),
            halving=InvertedResidual(8, 12, stride=2, expansion=2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            out=nn.Linear(12, 10),
        )
    )


def _zoo(name: str) -> nn.Module:
    return build_network(name, (1, PIXELS, PIXELS), 10, torch.Generator().manual_seed(0))


NETWORKS: dict[str, Any] = {
    "plain": lambda: _zoo("8C3-MP2-8C3-MP2-16FC-10"),
    "residual": lambda: small_resnet(8, channels=1, classes=10),
    "depthwise": _inverted_residuals,
    "concatenating": Concatenating,
    "without norm": _without_norm,
}


@functools.cache
def problem(
    name: str,
    tolerance: float = 0.4,
    compensate: bool = True,
    images: int = 60,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """A network with initial weights on digits of 14x14, whose labels are what the network says of most of them.

    In float64 by default, so that no rounding changes which logit is the largest; a tenth of the labels are wrong.
    """
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = NETWORKS[name]().to(dtype).eval()
    space = search_space(model, torch.zeros(1, 1, PIXELS, PIXELS, dtype=dtype))
    pixels, _ = digits().validation.batch(torch.arange(images))
    calibration, _ = digits().calibration.batch(torch.arange(32))
    pixels, calibration = (nn.functional.avg_pool2d(x, 2).to(dtype) for x in (pixels, calibration))
    settings: dict[str, Any] = {"tolerance": tolerance, "compensate": compensate, "device": CPU}
    recalibrated = copy.deepcopy(model)
    recalibrate(recalibrated, calibration)
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        logits = recalibrated(pixels)
        classifier.bias.sub_(logits.mean(0))  # so that every class is somebody's label
    labels = (logits - logits.mean(0)).argmax(1)
    labels[::10] = (labels[::10] + 1) % 10
    posed = make_problem(model, space, calibration, pixels, labels, **settings)
    return replace(posed, execution=Execution(batch_size=16))


def genomes(space: SearchSpace, count: int = 6, seed: int = 0) -> list[np.ndarray]:
    """Random genomes from wide to narrow, first the whole network without a single gene."""
    rng = np.random.default_rng(seed)
    all_but_one = space.full()
    all_but_one[rng.integers(space.genes)] = 0
    return [space.repair(all_but_one, rng.random(space.genes))] + [
        space.random(rng, keep) for keep in np.linspace(0.95, 0.3, count - 1)
    ]
