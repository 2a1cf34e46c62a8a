"""Pruning without labels: the unpruned network itself says what is right.

`python experiments/unlabelled.py results/unlabelled` takes a minute or two on one core, for two networks on images
alone:

- a classifier, whose own answers stand in for labels;
- a detector with two heads. `like_teacher` allows each of their numbers to be 0.5 away. `Boxes`, a task of one's own,
  counts a cell as wrong if it finds an object where the unpruned network finds none, or the other way round, or if an
  object's box is more than half a pixel away.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.config.schema import DataConfig
from evoprune.data.load import load_data

Heads = dict[str, Tensor]
"""`object`: logits (n, 1, h, w), whether a cell has an object. `box`: its centre's place, (n, 2, h, w), in pixels."""


class Boxes(ep.Task):
    """Objects and boxes of a detector, as the unpruned network finds them."""

    reads_targets = False  # the unpruned network's answers are always the targets

    def answers(self, outputs: Heads) -> Heads:
        return outputs

    def loss(self, outputs: Heads, targets: Heads) -> Tensor:
        there = targets["object"] > 0
        found = nn.functional.binary_cross_entropy_with_logits(outputs["object"], there.float())
        apart = ((outputs["box"] - targets["box"]).square() * there).sum() / there.sum().clamp(min=1)
        return found + apart

    def errors(self, outputs: Heads, targets: Heads) -> Tensor:
        there, found = targets["object"][:, 0] > 0, outputs["object"][:, 0] > 0
        apart = (outputs["box"] - targets["box"]).norm(dim=1) > 0.5
        return ((there != found) | (there & apart)).flatten(1).double().mean(1)


class Detector(nn.Module):
    """Cells of 7 x 7 pixels, each with a logit and a place."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.object = nn.Conv2d(24, 1, 1)
        self.box = nn.Conv2d(24, 2, 1)

    def forward(self, images: Tensor) -> Heads:
        maps = self.trunk(images)
        return {"object": self.object(maps), "box": self.box(maps)}


def trained_detector(images: Tensor, epochs: int) -> Detector:
    """A detector of bright cells and their centres of brightness, for which no labels are kept."""
    torch.manual_seed(0)
    cells = nn.functional.unfold(images, 4, stride=4)  # (n, 16 pixels, 49 cells)
    places = torch.stack([torch.arange(16) // 4, torch.arange(16) % 4]).float()
    bright = cells.sum(1, keepdim=True)
    wanted = {
        "object": (bright > 4).float().reshape(-1, 1, 7, 7),
        "box": ((places @ cells) / bright.clamp(min=1)).reshape(-1, 2, 7, 7),
    }
    detector, task = Detector(), Boxes()
    optimiser = torch.optim.Adam(detector.parameters(), lr=0.01)
    for _ in range(epochs):
        for batch in torch.arange(len(images)).split(32):
            optimiser.zero_grad()
            task.loss(detector(images[batch]), {name: part[batch] for name, part in wanted.items()}).backward()
            optimiser.step()
    return detector.eval()


def trained_classifier(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A classifier of digits, which somebody else has trained with labels."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 12, 5), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 24, 5), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(24 * 16, 10)),
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=0.005)
    for _ in range(epochs):
        for batch in torch.arange(len(images)).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimiser.step()
    return network.eval()


def main(out: Path, images: int = 1200, epochs: int = 2, generations: int = 6) -> dict[str, ep.Run]:
    """Prunes both networks on images alone, and prints what is left of them.

    Args:
        out: the folder of the three run folders.
        images: number of images, a quarter of them for validation.
        epochs: passes over the images, before the search and after it.
        generations: of each search.
    """
    split = load_data(DataConfig(), seed=0).train
    pixels, labels = split.pixels()[:images], split.targets[:images]
    classifier, detector = trained_classifier(pixels, labels, epochs), trained_detector(pixels, epochs)
    held = images // 4
    runs = {
        name: ep.evolve(
            network,
            pixels[:1],
            validation=pixels[:held],
            calibration=pixels[held : held + 128],
            train=pixels[held:],
            task=task,
            task_options=options,
            tolerance=0.02,
            search=ep.SearchConfig(population=12, generations=generations),
            retrain=ep.RetrainConfig(survivors=1, epochs=epochs),
            workers=ep.WorkersConfig(backend="serial"),
            device="cpu",
            out=out / name,
        )
        for name, network, task, options in (
            ("classifier", classifier, None, None),
            ("like_teacher", detector, "like_teacher", {"tolerance": 0.5}),
            ("boxes", detector, Boxes, None),
        )
    }
    for name, run in runs.items():
        survivor = run.survivors.iloc[0]
        print(f"{name}: {survivor['macs_ratio']:.0%} of the MACs, error {survivor['mcr_retrained']:.2%} against itself")
    with torch.no_grad():
        small = runs["classifier"].load_survivor(runs["classifier"].survivors["key"].iloc[0])
        for name, network in (("unpruned", classifier), ("pruned", small)):
            right = (network(pixels[:held]).argmax(1) == labels[:held]).double().mean()
            print(f"classifier, {name}: {1 - float(right):.2%} misclassified by the labels, which the search never saw")
    return runs


if __name__ == "__main__":
    main(Path(sys.argv[1]))
