"""Every criterion by its name, on a network of several kinds of layers; and as Torch-Pruning has it."""

from collections import OrderedDict
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from evoprune.config.choices import CriterionName
from evoprune.criteria import synflow
from evoprune.criteria.criterion import CriterionContext, WeightCriterion
from evoprune.criteria.importance import normalised
from evoprune.criteria.importance_by_name import (
    CRITERIA,
    find_criterion,
    kernel_importance,
    map_importance,
    weight_importance,
)
from evoprune.criteria.preferences import magnitude_preferences, preferences_of
from evoprune.errors import ConfigError
from tests.criteria.contexts import criterion_context
from tests.scoring.problems import problem

NAMES: tuple[CriterionName, ...] = get_args(CriterionName)
tp = pytest.importorskip("torch_pruning")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many iterations SynFlow has does not matter here."""
    monkeypatch.setattr(synflow, "STEPS", 5)


class Small(nn.Module):
    """A residual addition, a depthwise convolution, a hidden layer without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.depthwise, self.norm3 = nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6)
        self.hidden, self.out = nn.Linear(6 * 16, 8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        first = self.norm1(self.conv1(images)).relu()
        second = (first + self.norm2(self.conv2(first))).relu()
        return self.out(self.hidden(self.norm3(self.depthwise(second)).relu().flatten(1)).relu())


def small(masks: bool = False) -> CriterionContext:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = Small(), torch.randn(12, 1, 6, 6)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.2, 2)
    return criterion_context(model, images, torch.arange(12) % 4, kernels=masks, strides=masks)


def test_every_name_of_the_config_has_a_criterion() -> None:
    assert set(CRITERIA.names) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_criterion_scores_every_part(name: CriterionName) -> None:
    """Finite, not all alike, the same every time; the network is left as it was."""
    context = small(masks=True)
    before = {name: tensor.clone() for name, tensor in context.model.state_dict().items()}
    maps, kernels = map_importance(name, context), np.concatenate(kernel_importance(name, context))
    preferences = preferences_of(name, small(masks=True))
    for values in (maps, kernels, preferences.genes):
        assert np.isfinite(values).all()
        assert values.std() > 0
    assert (len(maps), len(preferences.genes)) == (context.space.maps, context.space.genes)
    assert all(((kept >= 0) & (kept <= 1 + 1e-9)).all() for kept in preferences.strides)
    assert (preferences.genes == preferences_of(name, small(masks=True)).genes).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in context.model.state_dict().items())


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(find_criterion(name), WeightCriterion)])
def test_scores_of_single_weights(name: CriterionName) -> None:
    context = small()
    scores = weight_importance(name, context)
    assert {weight: tuple(values.shape) for weight, values in scores.items()} == {
        layer.weight: layer.shape for layer in context.space.layers
    }
    assert all((values >= 0).all() and values.dtype == torch.float64 for values in scores.values())


def test_single_weights_have_no_batch_norm() -> None:
    with pytest.raises(ConfigError, match="batch_norm_scale is not defined for single weights; take one of l1, l2"):
        weight_importance("batch_norm_scale", small())


def test_l1_needs_no_examples() -> None:
    context = small(masks=True)
    one, other = preferences_of("l1", context), magnitude_preferences(context.model, context.space)
    assert (one.genes == other.genes).all()
    assert all((a == b).all() for a, b in zip(one.strides, other.strides, strict=True))


def test_maps_without_batch_norm_are_ranked_by_their_weights_at_the_mean_of_the_others() -> None:
    context = small()
    importance, norms = (map_importance(name, context) for name in ("batch_norm_scale", "l1"))
    assert importance[6:].mean() == pytest.approx(importance[:6].mean())
    assert (np.argsort(importance[6:]) == np.argsort(norms[6:])).all()
    expected = np.mean([context.model.get_parameter(f"norm{n}.weight").detach().numpy() for n in (1, 2, 3)], axis=0)
    assert importance[:6].tolist() == pytest.approx(expected.tolist())


def test_a_network_without_batch_norm() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with pytest.raises(ConfigError, match=r"batch_norm_scale needs batch norms .* this network has none; take l1"):
        map_importance("batch_norm_scale", criterion_context(model, torch.randn(2, 1, 6, 6)))


def test_auto_is_elimination_and_magnitude_for_parts_without_a_score() -> None:
    context = small(masks=True)
    unbounded = [preferences_of(choice, context).importance.tolist() for choice in ("auto", "elimination", "l1")]
    assert unbounded[0] == unbounded[1] != unbounded[2]
    without = replace(context, most_gram_bytes=1)
    with pytest.raises(ConfigError, match="elimination has no values for this network's feature maps; take l1"):
        preferences_of("elimination", without)
    assert preferences_of("auto", without).importance.tolist() == unbounded[2]


def test_normalisations_by_hand() -> None:
    values = np.array([3.0, 4.0, 0.0])
    assert normalised(values, "none").tolist() == [3, 4, 0]
    assert normalised(values, "largest").tolist() == [0.75, 1, 0]
    assert normalised(values, "l2").tolist() == [0.6, 0.8, 0]
    assert normalised(np.zeros(2), "l2").tolist() == [0, 0]


def test_parts_without_effect_are_least_important() -> None:
    """A map whose filter is zero and whose batch norm has no shift."""
    context = small()
    with torch.no_grad():
        for layer in ("conv1", "conv2"):
            context.model.get_parameter(f"{layer}.weight")[2] = 0
        for norm in ("norm1", "norm2", "norm3"):
            context.model.get_parameter(f"{norm}.bias")[2] = 0
            context.model.get_parameter(f"{norm}.weight")[2] = 0
    for name in set(NAMES) - {"random"}:
        assert map_importance(name, context)[:6].argmin() == 2, name


def test_taylor_and_obd_agree_with_the_oracle() -> None:
    """Not to the rank, for the changes are not small; but clearly."""
    context = small()
    oracle = map_importance("oracle", context)[6:]
    for name in ("taylor", "obd"):
        assert spearmanr(map_importance(name, context)[6:], oracle).statistic > 0.5, name


# --- Torch-Pruning


def plain() -> tuple[nn.Module, Tensor, Tensor]:
    """Without biases, so that a map's Taylor term can be had from its filter as well as from its activations."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, 6, 3, bias=False),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(6, 5, 3, bias=False),
                norm2=nn.BatchNorm2d(5),
                relu2=nn.ReLU(),
                flatten=nn.Flatten(),
                out=nn.Linear(5 * 4 * 4, 3),
            )
        )
        nn.init.uniform_(model.get_parameter("norm2.weight"), 0.2, 2)
        return model.eval(), torch.randn(1, 1, 8, 8), torch.tensor([1])


def theirs(model: nn.Module, layer: str, importance: object) -> np.ndarray:
    """Torch-Pruning's importance of a layer's output maps, as shares of the largest."""
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=torch.randn(1, 1, 8, 8))
    conv = model.get_submodule(layer)
    assert isinstance(conv, nn.Conv2d)
    group = graph.get_pruning_group(conv, tp.prune_conv_out_channels, idxs=list(range(conv.out_channels)))
    values: np.ndarray = importance(group).double().numpy()  # type: ignore[operator]
    return values / values.max()


@pytest.mark.parametrize(("name", "p"), [("l1", 1), ("l2", 2)])
def test_norms_as_torch_pruning_has_them(name: CriterionName, p: int) -> None:
    """For the layer's own filters ("first"): theirs is the sum of |w|^p, ours its mean and for L2 the root of that."""
    model, images, labels = plain()
    ours = map_importance(name, criterion_context(model, images, labels))
    for layer, maps in (("conv1", slice(0, 6)), ("conv2", slice(6, 11))):
        other = theirs(model, layer, tp.importance.MagnitudeImportance(p=p, group_reduction="first", normalizer=None))
        assert ours[maps].tolist() == pytest.approx((other ** (1 / p)).tolist(), rel=1e-5)


def test_batch_norm_scales_as_torch_pruning_has_them() -> None:
    model, images, labels = plain()
    ours = map_importance("batch_norm_scale", criterion_context(model, images, labels))[6:]
    other = theirs(model, "conv2", tp.importance.BNScaleImportance(normalizer=None))
    assert (ours / ours.max()).tolist() == pytest.approx(other.tolist(), rel=1e-5)


def test_taylor_as_torch_pruning_has_it() -> None:
    """Theirs: |sum of w dL/dw| over a filter; without a bias that is |sum of a dL/da| over its map (Euler's theorem).

    For one image, for theirs adds images up before the absolute value is taken, ours after.
    """
    model, images, labels = plain()
    F.cross_entropy(model(images), labels).backward()
    ours = map_importance("taylor", criterion_context(model, images, labels))[:6]
    other = theirs(
        model, "conv1", tp.importance.TaylorImportance(multivariable=True, group_reduction="first", normalizer=None)
    )
    assert (ours / ours.max()).tolist() == pytest.approx(other.tolist(), rel=1e-4)


def test_taylor_of_weights_as_torch_pruning_has_it() -> None:
    """Theirs: the sum of |w dL/dw| over a filter."""
    model, images, labels = plain()
    F.cross_entropy(model(images), labels).backward()
    scores = (
        weight_importance("taylor", criterion_context(model, images, labels))["conv2.weight"].sum((1, 2, 3)).numpy()
    )
    other = theirs(model, "conv2", tp.importance.TaylorImportance(group_reduction="first", normalizer=None))
    assert (scores / scores.max()).tolist() == pytest.approx(other.tolist(), rel=1e-4)


# --- other networks


@pytest.mark.parametrize("network", ["residual", "depthwise", "concatenating", "without norm"])
def test_networks_of_every_kind(network: str) -> None:
    """Every map is given a finite importance by every criterion that the network has something for."""
    posed = problem(network)
    context = criterion_context(posed.model, posed.calibration[:4], torch.arange(4))
    for name in set(NAMES) - {"oracle"} - ({"batch_norm_scale"} if network == "without norm" else set()):
        importance = map_importance(name, context)
        assert importance.shape == (context.space.maps,)
        assert np.isfinite(importance).all(), name
        assert importance.std() > 0 or name == "batch_norm_scale", name  # which training has not moved
