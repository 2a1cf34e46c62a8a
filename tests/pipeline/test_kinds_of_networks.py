"""`ep.evolve` on networks of a kind that is easily forgotten: computed weights, other types, parts that did not run."""

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evoprune as ep
from evoprune.config.schema import RetrainConfig, SearchConfig, WorkersConfig
from evoprune.discovery.discover import search_space
from evoprune.surgery.apply import compact, mask
from evoprune.surgery.lowering.lower import lower
from tests.few_images import few

IMAGES, LABELS = few()[2:]
SETTINGS: dict[str, Any] = {
    "search": SearchConfig(population=4, generations=1),
    "workers": WorkersConfig(backend="serial"),
    "device": "cpu",
    "tolerance": 1.0,
}


def evolved(model: nn.Module, out: Path, **changed: Any) -> ep.Run:
    arguments: dict[str, Any] = {"validation": (IMAGES, LABELS), "calibration": IMAGES}
    return ep.evolve(model, IMAGES[:1], **(arguments | changed), **SETTINGS, out=out)


def plain() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)),
    )


def old_weight_norm() -> nn.Module:
    """After a step with gradients, its `weight` is a computed tensor, which copy.deepcopy refuses."""
    network = plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network[4] = torch.nn.utils.weight_norm(network[4])
    network(IMAGES[:2]).sum().backward()
    return network


def test_a_network_with_old_weight_norm_is_searched_retrained_and_read_back(tmp_path: Path) -> None:
    model = old_weight_norm()
    run = evolved(model, tmp_path / "run", train=(IMAGES, LABELS), retrain=RetrainConfig(epochs=1, survivors=1))
    survivor = run.load_survivor(run.survivors["key"].iloc[0])
    assert survivor(IMAGES[:2]).shape == (2, 10)
    run = ep.load_run(tmp_path / "run")
    run.load_survivor(run.survivors["key"].iloc[0], network=old_weight_norm())
    run.load_baseline(network=old_weight_norm())


def test_a_network_with_old_weight_norm_is_masked_compacted_and_lowered() -> None:
    model = old_weight_norm().eval()
    space = search_space(model, IMAGES[:1])
    genome = space.full()
    genome[0] = 0
    expected = mask(model, space, genome)(IMAGES[:2])
    for network in (compact(model, space, genome), lower(model, space, genome, IMAGES[:2])):
        assert torch.allclose(network(IMAGES[:2]), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_of_another_type_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    name = str(dtype).removeprefix("torch.")
    message = rf"^model: parameters must be of type float32, but 0\.weight is {name}; give model\.float\(\)$"
    with pytest.raises(ep.UserError, match=message):
        evolved(plain().to(dtype), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    evolved(plain().to(dtype).float(), tmp_path / "run")


def test_frozen_parameters_are_refused_at_the_start_if_survivors_are_retrained(tmp_path: Path) -> None:
    frozen = plain().requires_grad_(False)
    with pytest.raises(ep.UserError, match=r"^model: no parameter has requires_grad"):
        evolved(frozen, tmp_path / "run", train=(IMAGES, LABELS))
    assert not (tmp_path / "run").exists()
    evolved(frozen, tmp_path / "run")  # nothing is retrained


class EarlyExit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.first, self.more, self.last = plain()[:6], nn.Linear(6, 10), nn.Linear(6, 6), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x).flatten(1)
        return self.first(maps) if x.numel() else self.last(self.more(maps))


def test_parts_that_did_not_run_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        evolved(EarlyExit(), tmp_path / "run")
    assert "more, last did not run on the example input: nothing of it is pruned" in caplog.text
