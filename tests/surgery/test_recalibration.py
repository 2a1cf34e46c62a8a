"""Batch-norm statistics taken anew: the numbers, and that nothing else changes."""

import pytest
import torch
from torch import nn

from evoprune.surgery import recalibration
from evoprune.surgery.recalibration import recalibrate


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_statistics_of_one_layer_by_hand() -> None:
    """Pixels 1, 2, 3, 6 times 1 and 2: means 3 and 6, variances (4 + 1 + 0 + 9) / 3 and four times that."""
    conv, norm = nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 2.0])[:, None, None, None])
    recalibrate(nn.Sequential(conv, norm).eval(), torch.tensor([[1.0, 2.0], [3.0, 6.0]]).reshape(2, 1, 1, 2))
    assert norm.state_dict()["running_mean"].tolist() == pytest.approx([3, 6])
    assert norm.state_dict()["running_var"].tolist() == pytest.approx([14 / 3, 56 / 3])


def test_deeper_statistics_are_those_behind_normalised_layers() -> None:
    """The second norm sees what the first one makes of the calibration set itself: mean 0, variance 1."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).eval()
    images = 5 + 2 * torch.randn(64, 3, 4, 4, generator=generator())
    recalibrate(model, images)
    torch.testing.assert_close(model[1].running_mean, torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(model[1].running_var, torch.ones(3), atol=1e-2, rtol=0)


def test_statistics_of_passes_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recalibration, "BATCH_SIZE", 4)
    norm = nn.BatchNorm1d(3).eval()
    images = torch.randn(8, 3, generator=generator())
    recalibrate(norm, images)
    torch.testing.assert_close(norm.running_mean, images.mean(0))
    torch.testing.assert_close(norm.running_var, (images[:4].var(0) + images[4:].var(0)) / 2)


def test_no_pass_is_of_a_single_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 images, 4 at most in a pass: 3 and 2, not 4 and 1, of which batch norm would have no variance."""
    monkeypatch.setattr(recalibration, "BATCH_SIZE", 4)
    norm = nn.BatchNorm1d(2).eval()
    images = torch.randn(5, 2, generator=generator())
    recalibrate(norm, images)
    torch.testing.assert_close(norm.running_var, (images[:3].var(0) + images[3:].var(0)) / 2)


def test_statistics_before_do_not_matter() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2), nn.BatchNorm1d(2))
    images = torch.randn(16, 4, generator=generator())
    recalibrate(model, images)
    once = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recalibrate(model, images)
    assert all(torch.equal(tensor, once[name]) for name, tensor in model.state_dict().items())


def test_modes_momentum_and_parameters_are_left_as_they_were() -> None:
    norms = nn.BatchNorm2d(2, momentum=0.3), nn.BatchNorm2d(2, momentum=None), nn.BatchNorm2d(2)
    model = nn.Sequential(nn.Dropout(0.5), *norms).eval()
    norms[1].train()
    recalibrate(model, torch.randn(8, 2, 3, 3, generator=generator()))
    assert [module.training for module in model] == [False, False, True, False]
    assert [norm.momentum for norm in norms] == [0.3, None, 0.1]
    assert all(torch.equal(norm.weight, torch.ones(2)) for norm in norms)


def test_modes_are_put_back_when_the_forward_fails() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(3, 1, 1)).eval()
    with pytest.raises(RuntimeError):
        recalibrate(model, torch.randn(2, 2, 3, 3, generator=generator()))
    assert not any(module.training for module in model.modules())
    assert model[0].momentum == 0.1


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)),
    ],
    ids=["none", "group norm", "batch norm without statistics"],
)
def test_without_statistics_nothing_is_computed(model: nn.Module) -> None:
    passes: list[int] = []
    model.register_forward_pre_hook(lambda module, args: passes.append(1))
    recalibrate(model, torch.randn(2, 1, 5, 5, generator=generator()))
    assert passes == []
