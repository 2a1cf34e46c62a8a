"""Activations, Taylor, curvature and the oracle, worked out by hand on networks of a few weights."""

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evoprune.criteria.criterion import CriterionContext
from evoprune.criteria.curvature import OptimalBrainDamage, gauss_newton_diagonal
from evoprune.criteria.importance import LayerValues
from evoprune.criteria.importance_by_name import map_importance
from evoprune.criteria.mean_activation import MeanActivation
from evoprune.criteria.nonzero_share import NonzeroShare
from evoprune.criteria.oracle import Oracle
from evoprune.criteria.taylor import Taylor
from evoprune.discovery.discover import search_space
from evoprune.space.search_space import SearchSpace
from evoprune.tasks.classification import Classification
from tests.criteria.contexts import criterion_context, doubles, linear


def hidden_of_two() -> CriterionContext:
    """Inputs 1 and 2 images: hidden units relu(x), relu(-x), and logits (2 a - b, 0), labels 0 and 1.

    x = 1: a = 1, b = 0, logits (2, 0). x = -3: a = 0, b = 3, logits (-3, 0).
    """
    model = nn.Sequential(
        OrderedDict(hidden=linear([[1.0], [-1.0]]), relu=nn.ReLU(), out=linear([[2.0, -1.0], [0.0, 0.0]]))
    )
    return criterion_context(model, doubles([[1.0], [-3.0]]), torch.tensor([0, 1]))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def only(values: list[LayerValues]) -> list[float]:
    [layer] = values
    assert layer.gene.tolist() == list(range(len(layer.values)))
    found: list[float] = layer.values.tolist()
    return found


def test_mean_activation_and_share_of_zeros() -> None:
    assert only(MeanActivation().maps(hidden_of_two())) == [0.5, 1.5]
    assert only(NonzeroShare().maps(hidden_of_two())) == [0.5, 0.5]


def test_taylor_by_hand() -> None:
    """The loss of label 0 falls with logit 0 by 1 - p, p = sigmoid(2): gradient of a is 2 (p - 1), of b -(p - 1).

    Of label 1 it rises by q = sigmoid(-3): of a 2 q, of b -q. Times activation, absolute, over two examples.
    """
    context = hidden_of_two()
    expected = [abs(2 * (sigmoid(2) - 1) * 1) / 2, abs(-sigmoid(-3) * 3) / 2]
    assert only(Taylor().maps(context)) == pytest.approx(expected, rel=1e-6)
    norm = math.hypot(*expected)
    assert map_importance("taylor", context).tolist() == pytest.approx([value / norm for value in expected])


class Pixels(nn.Module):
    """Two maps of 1x2 pixels, whose four pixels the classifier reads with weights 1 and 3, 1 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 2, 1, bias=False, dtype=torch.float64)
        self.out = linear([[1.0, 3.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
        with torch.no_grad():
            self.maps.weight.copy_(doubles([1.0, -2.0]).reshape(2, 1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.maps(images).flatten(1))


def test_pixels_behind_a_flattening_are_one_map() -> None:
    """Pixels (1, 2): maps (1, 2) and (-2, -4), logit 1 + 6 - 2 - 4 = 1, its gradient g = sigmoid(1) - 1.

    Taylor: |g (1 * 1 + 2 * 3)| / 2 and |g (-2 - 4)| / 2. Mean |activation|: 1.5 and 3.
    """
    context = criterion_context(Pixels(), doubles([[[[1.0, 2.0]]]]))
    gradient = abs(sigmoid(1) - 1)
    assert only(Taylor().maps(context)) == pytest.approx([gradient * 7 / 2, gradient * 6 / 2])
    assert only(MeanActivation().maps(context)) == [1.5, 3]


class TwoReaders(nn.Module):
    """A hidden layer with two readers, the second one behind another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.more = linear([[1.0], [2.0]]), linear([[1.0, 1.0]])
        self.out = linear([[1.0, 1.0, 5.0], [0.0, 0.0, 0.0]])

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.hidden(images)
        return self.out(torch.cat([hidden, self.more(hidden)], 1))


def test_each_reader_has_the_gradient_of_its_own_path() -> None:
    """x = 0.1: hidden (0.1, 0.2), more 0.3, logit 1.8. By `out` itself the gradient of each is g, by `more` 5 g."""
    context = criterion_context(TwoReaders(), doubles([[0.1]]))
    of_more, of_out = Taylor().maps(context)
    gradient = 1 - sigmoid(1.8)
    assert of_more.values.tolist() == pytest.approx([0.5 * gradient, 1.0 * gradient])
    assert of_out.gene.tolist() == [0, 1]  # more's single unit has to stay
    assert of_out.values.tolist() == pytest.approx([0.1 * gradient, 0.2 * gradient])


def test_the_oracle_by_hand() -> None:
    """Without a the logits are (0, 0) and (-3, 0); without b (2, 0) and (0, 0)."""
    losses = {
        logits: (math.log1p(math.exp(-logits[0])) + math.log1p(math.exp(logits[1]))) / 2
        for logits in [(2, -3), (0, -3), (2, 0)]
    }
    expected = [abs(losses[0, -3] - losses[2, -3]), abs(losses[2, 0] - losses[2, -3])]
    assert only(Oracle().maps(hidden_of_two())) == pytest.approx(expected, rel=1e-6)


def test_the_oracle_of_kernels_is_that_of_maps_where_a_map_has_one_kernel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(5, 1, 8, 8)
    maps = map_importance("oracle", criterion_context(model, images))
    context = criterion_context(model, images, feature_maps=False, kernels=True)
    [kernels] = Oracle().kernels(context)
    assert kernels.shape == (12,)
    without_three = np.flatnonzero(kernels)  # outputs are not removed whole, so that every kernel counts
    assert len(without_three) == 12
    assert maps.shape == (3,)


# --- Optimal Brain Damage


def test_obd_of_a_quadratic_is_the_rise_of_the_loss() -> None:
    """Loss (w . x - y)^2 / 2 with inputs along the axes: the Hessian is diagonal, h = (4, 9) / 2 over two examples.

    The network is at its minimum, so that without u_k the mean loss is h_kk u_k^2 / 2, by hand 4 * 0.25 / 4 and
    9 * 4 / 4. One output: the root of the Hessian by it is 1.
    """
    images, weight = doubles([[2.0, 0.0], [0.0, 3.0]]), doubles([[0.5, -2.0]])
    network = nn.Sequential(linear(weight.tolist()))
    space = search_space(nn.Sequential(linear([[1.0, 1.0]] * 2), linear([[1.0, 1.0]])), images[:1])
    one_layer = SearchSpace((), (), space.layers[:1], (), ())
    wanted = images @ weight.T
    generator = torch.Generator().manual_seed(0)
    diagonal = gauss_newton_diagonal(network, one_layer, images, generator, lambda logits, signs: signs)["0.weight"]
    assert diagonal.tolist() == [[2.0, 4.5]]
    for place in range(2):
        pruned = weight.clone()
        pruned[0, place] = 0
        rise = float(((images @ pruned.T - wanted) ** 2).mean() / 2)
        assert rise == pytest.approx(float(diagonal[0, place] * weight[0, place] ** 2 / 2))


def test_the_root_of_the_curvature_has_the_hessian_of_cross_entropy_for_its_mean_square() -> None:
    """Over all signs of three classes, exactly."""
    logits = doubles([[0.3, -1.0, 2.0]])
    signs = [doubles([[a, b, c]]) for a in (-1.0, 1) for b in (-1.0, 1) for c in (-1.0, 1)]
    roots = [Classification().curvature_root(logits, z)[0] for z in signs]
    mean = torch.stack([root.outer(root) for root in roots]).mean(0)
    hessian = torch.autograd.functional.hessian(
        lambda x: nn.functional.cross_entropy(x, torch.tensor([1])), logits
    ).reshape(3, 3)
    assert torch.allclose(mean, hessian, atol=1e-12)


def test_the_gauss_newton_diagonal_of_a_linear_classifier_is_its_hessian() -> None:
    """With a single example nothing but the signs of the classes mix; over 2,000 draws their terms cancel."""
    model, image = nn.Sequential(linear([[0.2, -0.1], [0.4, 0.3]])), doubles([[1.0, -2.0]])
    two_layers = search_space(nn.Sequential(linear([[1.0, 1.0]] * 2), linear([[1.0, 1.0]])), image)
    space = SearchSpace((), (), two_layers.layers[:1], (), ())
    images = image.expand(2000, -1)
    found = gauss_newton_diagonal(
        model.requires_grad_(True), space, images, torch.Generator().manual_seed(1), Classification().curvature_root
    )["0.weight"]
    share = float(torch.softmax(model(image), 1)[0, 0].detach())
    expected = share * (1 - share) * doubles([[1.0, 4.0], [1.0, 4.0]])
    assert torch.allclose(found, expected, rtol=0.15)


def test_obd_of_maps_by_hand() -> None:
    """Logit 0 has derivative 2 for the gate of a, with x = 1, and -3 for that of b, with x = -3.

    Two classes: the curvature by that logit is p (1 - p). Halved, and the mean over two examples; within the noise.
    """
    context = hidden_of_two()
    shares = sigmoid(2), sigmoid(-3)
    expected = [p * (1 - p) * gradient**2 / 4 for p, gradient in zip(shares, (2, 3), strict=True)]
    found = np.mean([only(OptimalBrainDamage().maps(context)) for _ in range(300)], axis=0)
    assert found.tolist() == pytest.approx(expected, rel=0.1)


def test_weights_without_effect_have_no_saliency() -> None:
    context = hidden_of_two()
    for scores in (OptimalBrainDamage().weights(context), Taylor().weights(context)):
        assert (scores["hidden.weight"] > 0).all()
        assert not scores["out.weight"][1].any()


def test_taylor_of_weights_by_hand() -> None:
    """Mean gradients of `hidden`: by a (p - 1) 2 x / 2 with x = 1; by b -q (-x) / 2 with x = -3 and weight -1."""
    scores = Taylor().weights(hidden_of_two())["hidden.weight"]
    assert scores[:, 0].tolist() == pytest.approx([2 * (1 - sigmoid(2)) / 2, sigmoid(-3) * 3 / 2])
