"""A rare class: its recall is in the tables, its loss is warned of, and the balanced metric keeps it."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.data.images import ImageArray
from evoprune.data.splits import Split
from evoprune.errors import ConfigError
from evoprune.training.evaluation import evaluate
from tests import tiny_runs

CPU = torch.device("cpu")
RARE = 6
"""Images of the rare class, of 300: 2%."""


def images_and_labels(seed: int) -> tuple[Tensor, Tensor]:
    """Noise; images of the rare class have a bright square."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(300, 1, 8, 8, generator=generator)
    labels = (torch.randperm(300, generator=generator) < RARE).long()
    images[labels == 1, :, 2:5, 2:5] += 1
    return images, labels


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """Every image right, before a search."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)
    )
    images, labels = images_and_labels(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels, weight=torch.tensor([1.0, 20.0])).backward()
        optimiser.step()
    return model.eval()


def evolved(model: nn.Module, out: Path, metric: Any) -> ep.Run:
    return ep.evolve(
        model,
        torch.zeros(1, 1, 8, 8),
        images_and_labels(1),
        images_and_labels(0)[0][:64],
        tolerance=0.03,
        search=ep.SearchConfig(population=12, generations=6, metric=metric, compensation="none"),
        retrain=ep.RetrainConfig(survivors=1),
        workers=ep.WorkersConfig(backend="serial"),
        device="cpu",
        out=out,
    )


def test_an_answer_that_disappears_is_warned_of(
    trained: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Always to say no has an error of 2%, within a tolerance of 3."""
    with caplog.at_level(logging.WARNING):
        run = evolved(trained, tmp_path / "run", "mcr")
    [survivor] = tiny_runs.rows(run.survivors)
    assert survivor.baseline_worst_class_recall == 1
    assert survivor.baseline_class_recalls == "1 1"
    assert survivor.mcr_search <= 0.03
    assert survivor.worst_class_recall == 0
    assert survivor.class_recalls == "1 0"
    [warning] = [message for message in caplog.messages if "never answers" in message]
    assert warning.startswith(
        f"survivor {survivor.key} never answers class 1, which the baseline does: its recall is 0"
    )


def test_the_balanced_metric_keeps_a_rare_class(
    trained: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mean error over two classes of at most 3% is at least 94% of the rare one, of which there are six: all."""
    run = evolved(trained, tmp_path / "run", "balanced")
    [survivor] = tiny_runs.rows(run.survivors)
    assert survivor.worst_class_recall >= 0.94
    assert survivor.class_recalls.split()[1] == "1"
    assert survivor.mcr_search <= 0.03 + 1e-6
    assert not [message for message in caplog.messages if "never answers" in message]
    candidates = run.candidates
    assert candidates["errors"].dtype == "float64"
    known = candidates[candidates["exact"]]
    assert (known["mcr"] - known["errors"] / 300).abs().max() < 1e-12
    again = ep.load_run(run.root)
    assert again.candidates.equals(candidates)


def test_the_balanced_metric_needs_classes(trained: nn.Module, tmp_path: Path) -> None:
    images, _ = images_and_labels(1)
    with pytest.raises(ConfigError, match=r"search\.metric must be mcr with the task Regression, not balanced"):
        ep.evolve(
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 1)),
            images[:1],
            (images, images.mean((1, 2, 3))),
            images,
            task="regression",
            search=ep.SearchConfig(population=4, generations=1, metric="balanced"),
            workers=ep.WorkersConfig(backend="serial"),
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


class Fixed(nn.Module):
    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[: len(images)]


def test_recalls_by_hand() -> None:
    """Of four classes: half, all, none of them (one is not finite), and no image."""
    answers, labels = torch.tensor([0, 1, 1, 1, 0]), torch.tensor([0, 0, 1, 1, 2])
    logits = nn.functional.one_hot(answers, 4).float()
    logits[4] = torch.tensor([0, 0, torch.nan, 0])
    split = Split(ImageArray(torch.zeros(5, 1, 2, 2)), labels, torch.zeros(1), torch.ones(1))
    found = evaluate(Fixed(logits), split, CPU)
    assert found.classes is not None
    assert found.classes.images.tolist() == [2, 2, 1]
    assert found.classes.answers.tolist() == [1, 3, 0]
    assert found.classes.recalls == [0.5, 1, 0]
    assert found.classes.worst_recall == 0
    balanced = evaluate(Fixed(logits), split, CPU, balanced=True)
    assert balanced.mcr == pytest.approx((0.5 + 0 + 1) / 3, abs=1e-6)
    assert found.mcr == 2 / 5
