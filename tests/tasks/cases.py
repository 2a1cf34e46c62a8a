"""A tiny network and data for every built-in task, and for one from outside."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.tasks.tasks_by_name import Binary, Classification, LikeTeacher, Multilabel, Regression, Segmentation
from evoprune.tasks.trees import Tree
from tests.tasks.own_task import Brightness

IMAGES = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def trunk() -> list[tuple[str, nn.Module]]:
    """Two convolutions of six maps, with batch norm."""
    return [
        ("conv1", nn.Conv2d(1, 6, 3, padding=1)),
        ("norm1", nn.BatchNorm2d(6)),
        ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(6, 6, 3, padding=1)),
        ("relu2", nn.ReLU()),
    ]


def vector(outputs: int) -> nn.Module:
    """A network with some outputs for an image."""
    head: list[tuple[str, nn.Module]] = [("pool", nn.AdaptiveAvgPool2d(2)), ("flat", nn.Flatten())]
    return nn.Sequential(OrderedDict([*trunk(), *head, ("out", nn.Linear(24, outputs))]))


def pixels(outputs: int) -> nn.Module:
    """A network with some outputs for each pixel."""
    return nn.Sequential(OrderedDict([*trunk(), ("out", nn.Conv2d(6, outputs, 1))]))


class Heads(nn.Module):
    """A detector's kind of output: a dict of maps, a tuple inside."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(OrderedDict(trunk()))
        self.boxes, self.scores = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 2, 1)

    def forward(self, images: Tensor) -> dict[str, object]:
        maps = self.trunk(images)
        scores = self.scores(maps)
        return {"boxes": self.boxes(maps), "scores": (scores, scores.mean((1, 2, 3)))}


@dataclass(frozen=True)
class Case:
    """A task with a network and targets for `IMAGES`; targets None: the network's own outputs."""

    task: ep.Task
    network: Callable[[], nn.Module]
    targets: Tree

    def made(self) -> nn.Module:
        torch.manual_seed(0)
        return self.network().eval()


MEANS = IMAGES.mean((1, 2, 3))
LEFT, TOP = IMAGES[..., :4].mean((1, 2, 3)), IMAGES[:, :, :4].mean((1, 2, 3))

CASES: dict[str, Case] = {
    "classification": Case(Classification(), lambda: vector(3), (LEFT > 0.5).long() + (TOP > 0.5)),
    "binary": Case(Binary(), lambda: vector(1), (LEFT > 0.5).long()),
    "multilabel": Case(Multilabel(), lambda: vector(2), torch.stack([LEFT > 0.5, TOP > 0.5], 1).long()),
    "segmentation": Case(
        Segmentation(ignore_index=255),
        lambda: pixels(2),
        (IMAGES[:, 0] > 0.5).long().where(torch.arange(8) > 0, 255),
    ),
    "regression": Case(Regression(), lambda: vector(2), torch.stack([MEANS, LEFT], 1)),
    "like_teacher": Case(LikeTeacher(tolerance=0.05), Heads, None),
    "own": Case(Brightness(power=2), lambda: vector(1), MEANS),
}
