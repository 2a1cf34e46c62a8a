"""Criteria of a user's own: a function or a class, and their mistakes."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from evoprune.config.choices import CriterionName
from evoprune.criteria.criterion import CriterionContext
from evoprune.criteria.importance_by_name import CRITERIA, map_importance, weight_importance
from evoprune.criteria.preferences import preferences_of
from evoprune.errors import PluginError
from tests.criteria.contexts import criterion_context
from tests.space.blocks import conv_bn, head

OWN = "tests.plugins.own_criteria"


@pytest.fixture(scope="module")
def context() -> CriterionContext:
    torch.manual_seed(0)
    model = nn.Sequential(conv_bn(3, 4), conv_bn(4, 6), head(6)).eval()
    return criterion_context(model, torch.randn(8, 3, 8, 8), kernels=True, strides=True)


def test_names_are_those_of_the_config() -> None:
    assert sorted(CRITERIA.names) == sorted(get_args(CriterionName))
    assert all(summary for _, summary in CRITERIA.describe())


def test_a_function_and_a_class_value_maps(context: CriterionContext) -> None:
    by_function = map_importance(f"{OWN}:spread", context)
    weights = [context.model.get_parameter(name).detach() for name in ("0.0.weight", "1.0.weight")]
    deviations = [weight.flatten(1).std(1).numpy() for weight in weights]
    assert by_function == pytest.approx(np.concatenate(deviations))
    by_class = map_importance(f"{OWN}:Spread", context)
    assert by_class == pytest.approx(np.concatenate([values / values.max() for values in deviations]))


def test_a_function_may_value_kernels_too(context: CriterionContext) -> None:
    preferences = preferences_of(f"{OWN}:every_gene", context)
    assert preferences.maps.tolist() == [*np.linspace(0, 1, 4), *np.linspace(0, 1, 6)]
    for values, part in zip(preferences.kernels, context.space.kernels, strict=True):
        assert values == pytest.approx(np.linspace(0, 1, part.size))
    by_magnitude, of_maps = preferences_of("l1", context), preferences_of(f"{OWN}:spread", context)
    assert all((one == other).all() for one, other in zip(by_magnitude.kernels, of_maps.kernels, strict=True))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "raises",
            r"^search\.criterion: .*:raises: its call failed \(RuntimeError: no value\); correct it",
        ),
        (
            "shorter",
            r":shorter: its call returned values of shape \(9,\), not one for each feature map, \(10,\), or",
        ),
        ("not_finite", r":not_finite: its call returned nan for gene 2, not a finite number"),
        ("texts", r":texts: its call failed \(ValueError"),
        ("NotFinite", r":NotFinite: maps returned inf for a map, not a finite number"),
        ("OtherMaps", r":OtherMaps: maps returned a value for map 10000, and there are 10, counted from 0"),
        ("OtherShapes", r":OtherShapes: maps returned genes int64 \(3,\) with values \(2,\), not as many, \(n,\) each"),
        ("Array", r":Array: maps must return a list of LayerValues"),
        ("Kernels", r":Kernels: kernels must return a list of 2 arrays"),
        ("Another", r":Another must be a subclass of ep\.Criterion or a function of a context, not Another"),
        ("NOT_CALLABLE", r":NOT_CALLABLE must be a subclass of ep\.Criterion or a function of a context, not a int"),
    ],
)
def test_a_mistake_names_the_criterion_and_the_call(context: CriterionContext, name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        preferences_of(f"{OWN}:{name}", context)
    assert "\n" not in str(caught.value)


def test_single_weights_are_enough(context: CriterionContext) -> None:
    """Maps have the mean over their weights, and weights are those of taylor."""
    scores = weight_importance("taylor", context)
    expected = [scores[name].flatten(1).mean(1).numpy() for name in ("0.0.weight", "1.0.weight")]
    assert map_importance(f"{OWN}:Saliency", context) == pytest.approx(np.concatenate(expected))
