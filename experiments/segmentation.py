"""Semantic segmentation: a small U-Net that finds the pixels of digits in clutter, pruned by its share of wrong pixels.

`python experiments/segmentation.py results/segmentation` takes a minute on one core. It trains the network, searches
for smaller ones whose share of wrong pixels rises by at most one percentage point, retrains the cheapest, and prints
the intersection over union (IoU) of the digits before and after, on images that neither has seen.

`python experiments/segmentation.py results/fpn FPN` does the same with a network of segmentation_models_pytorch (Unet,
FPN, Linknet, ...) on a ResNet-18, in some minutes: pip install segmentation-models-pytorch.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.config.schema import DataConfig
from evoprune.data.load import load_data

CLUTTER = 6
"""Bright dots beside each digit."""


def digits_in_clutter(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Digits of mnist5k among bright dots and noise.

    Returns:
        Images float32 (count, 1, 32, 32), and masks int64 (count, 32, 32): 1 for the pixels of the digit, else 0.
    """
    generator = torch.Generator().manual_seed(seed)
    digits = load_data(DataConfig(), seed).train.pixels()[:count]  # (count, 1, 28, 28), 0..1
    digits = nn.functional.pad(digits, (2, 2, 2, 2))  # many networks halve their images five times
    dots = torch.zeros(count, 32 * 32)
    dots.scatter_(1, torch.randint(32 * 32, (count, CLUTTER), generator=generator), 1.0)
    noise = 0.2 * torch.rand(digits.shape, generator=generator)
    masks = (digits[:, 0] > 0.5).long()
    return torch.maximum(digits, dots.reshape(digits.shape)) + noise, masks


class UNet(nn.Module):
    """Two scales with one connection between them. The output has two classes for each pixel."""

    def __init__(self, maps: int = 12) -> None:
        super().__init__()
        self.fine = self._block(1, maps)
        self.coarse = self._block(maps, 2 * maps)
        self.joined = self._block(3 * maps, maps)
        self.classes = nn.Conv2d(maps, 2, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for read in (inputs, outputs):
            layers += [nn.Conv2d(read, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        coarse = self.coarse(nn.functional.max_pool2d(fine, 2))
        up = nn.functional.interpolate(coarse, scale_factor=2.0)
        return self.classes(self.joined(torch.cat([fine, up], 1)))


def network_of_library(name: str) -> nn.Module:
    """A network of segmentation_models_pytorch with fresh weights. name: of its class."""
    import segmentation_models_pytorch as smp

    network: nn.Module = getattr(smp, name)("resnet18", encoder_weights=None, in_channels=1, classes=2)
    return network


def train(network: nn.Module, images: Tensor, masks: Tensor, epochs: int) -> None:
    """Adam on batches of 32."""
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), masks[batch]).backward()
            optimiser.step()
    network.eval()


@torch.no_grad()
def iou(network: nn.Module, images: Tensor, masks: Tensor) -> float:
    """Pixels that both the answers and the masks call a digit, over those that either does."""
    answers = torch.cat([network(batch).argmax(1) for batch in images.split(100)])
    return float(((answers == 1) & (masks == 1)).sum() / ((answers == 1) | (masks == 1)).sum())


def main(
    out: Path, library_network: str | None = None, images: int = 1200, epochs: int = 2, generations: int = 6
) -> ep.Run:
    """Trains, searches and reports.

    Args:
        out: the run folder.
        library_network: a class of segmentation_models_pytorch; None: the small U-Net.
        images: number of images: a sixth each for validation and for the last figure, the rest for training.
        epochs: passes over the training images, before the search and after it.
        generations: of the search.
    """
    torch.manual_seed(0)
    pixels, masks = digits_in_clutter(images)
    held = images // 6
    training = pixels[2 * held :], masks[2 * held :]
    network = UNet() if library_network is None else network_of_library(library_network)
    train(network, *training, epochs)
    run = ep.evolve(
        network,
        pixels[:1],
        validation=(pixels[:held], masks[:held]),
        calibration=training[0][:128],
        train=training,
        task="segmentation",
        tolerance=0.01,
        search=ep.SearchConfig(population=12, generations=generations),
        retrain=ep.RetrainConfig(survivors=1, epochs=epochs),
        workers=ep.WorkersConfig(backend="serial"),
        device="cpu",
        out=out,
    )
    survivor = run.survivors.iloc[0]
    small, unseen = run.load_survivor(survivor["key"]), (pixels[held : 2 * held], masks[held : 2 * held])
    print(f"MACs: {survivor['macs_ratio']:.0%} of the unpruned network's")
    print(f"wrong pixels: {survivor['baseline_mcr_validation']:.2%} before, {survivor['mcr_retrained']:.2%} after")
    print(f"IoU of digits: {iou(network, *unseen):.3f} before, {iou(small, *unseen):.3f} after")
    return run


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
