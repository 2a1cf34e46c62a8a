"""Backward elimination against least squares done plainly, and by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evoprune.criteria import elimination
from evoprune.criteria.elimination import Elimination, eliminations
from evoprune.discovery.discover import search_space
from evoprune.space.search_space import SearchSpace
from evoprune.space.tensors import named_tensors
from evoprune.surgery.compensation import RIDGE
from evoprune.surgery.layer_statistics import LayerStatistics, gram_statistics
from tests.criteria.contexts import linear


def of(model: nn.Module, images: Tensor, **options: Any) -> tuple[SearchSpace, tuple[Elimination | None, ...]]:
    space = search_space(model, images[:1])
    statistics = gram_statistics(model, space, images, **options)
    return space, eliminations(space, {name: tensor.detach() for name, tensor in named_tensors(model)}, statistics)


def test_a_copy_of_another_map_goes_first_and_costs_nothing() -> None:
    """Map 2 is twice map 0: either can stand for both; which of them goes first does not matter."""
    torch.manual_seed(0)
    first = nn.Linear(3, 4)
    with torch.no_grad():
        first.weight[2] = 2 * first.weight[0]
        first.bias[2] = 2 * first.bias[0]
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(4, 5)).double().eval()
    _, [found] = of(model, torch.randn(200, 3, dtype=torch.float64))
    assert found is not None
    assert found.order[0] in (0, 2)
    assert found.error[1] == pytest.approx(0, abs=1e-3)  # the ridge keeps it from being nothing at all
    assert found.error[2] > 0.05


def test_uncorrelated_inputs_are_removed_by_their_own_share() -> None:
    """Columns of unit variance and without correlation: a map carries the square of its weight, 1, 4, 16 of 21."""
    model = nn.Sequential(linear(np.eye(3).tolist()), linear([[2, 4, 1]])).eval()
    signs = torch.tensor([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], dtype=torch.float64)
    _, [found] = of(model, signs)
    assert found is not None
    assert found.order.tolist() == [2, 0, 1]
    assert found.error.tolist() == pytest.approx([0, 1 / 21, 5 / 21, 1], abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_every_step_removes_the_same_as_plain_least_squares(seed: int) -> None:
    """At each step the map without which refitting the convolution that reads it leaves the least error."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    model = model.double().eval()
    images = torch.randn(60, 2, 6, 6, dtype=torch.float64)
    space, found = of(model, images)
    elimination = found[0]
    assert elimination is not None
    gram = gram_statistics(model, space, images)["2.weight"].gram
    assert gram is not None
    square = gram[0].numpy() + RIDGE * gram[0].diagonal().mean().item() * np.eye(45)
    weight = model.get_parameter("2.weight").detach().flatten(1).numpy()
    variance = (weight @ gram[0].numpy() * weight).sum()

    def error(gone: list[int]) -> float:
        """The error when these maps are gone and the others are solved for, as a share of the variance."""
        out = [column for place in gone for column in range(9 * place, 9 * place + 9)]
        return _left_over(square, weight, out) / variance

    gone: list[int] = []
    for step, place in enumerate(elimination.order.tolist()[:4], 1):
        losses = {other: error([*gone, other]) for other in range(5) if other not in gone}
        assert place == min(losses, key=lambda other: losses[other])
        gone.append(place)
        assert elimination.error[step] == pytest.approx(error(gone), rel=1e-6)


@pytest.mark.parametrize("most_factors", [1, 4, 1000])
def test_losses_of_blocks_equal_those_of_plain_least_squares(
    most_factors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five maps of 1, 2, 1, 0 and 3 columns beside one of another group; factors applied at once, twice, or never."""
    monkeypatch.setattr(elimination, "MOST_FACTORS", most_factors)
    generator = torch.Generator().manual_seed(0)
    examples = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    columns = [torch.tensor(block, dtype=torch.int64) for block in ([4], [0, 5], [7], [], [1, 2, 6])]
    statistics = LayerStatistics(None, examples[None] / np.sqrt(40), torch.zeros(1, 8), None)
    reader = elimination._Reader(weight, statistics, columns)
    gram = (examples.T @ examples / 40).numpy()
    square = gram + RIDGE * gram.diagonal().mean() * np.eye(8)
    variance = float((weight.numpy() @ gram * weight.numpy()).sum())
    gone: list[int] = []
    before = 0.0
    for place in (1, 3, 2, 4, 0):
        losses = reader.losses(5)
        columns_gone = [int(column) for at in (*gone, place) for column in columns[at]]
        after = _left_over(square, weight.numpy(), columns_gone) / variance
        assert losses[place] == pytest.approx(after - before, rel=1e-6, abs=1e-9)
        assert not losses[gone].any()
        reader.remove(place)
        gone.append(place)
        before = after


def _left_over(square: np.ndarray, weight: np.ndarray, removed: list[int]) -> float:
    """tr(W_g (H_gg - H_gs H_ss^-1 H_sg) W_g^T): the error when the columns that stay are solved for."""
    out = np.array(removed)
    stays = np.setdiff1d(np.arange(len(square)), out)
    schur = square[np.ix_(out, out)] - square[np.ix_(out, stays)] @ np.linalg.solve(
        square[np.ix_(stays, stays)], square[np.ix_(stays, out)]
    )
    return float((weight[:, out] @ schur * weight[:, out]).sum())


def test_samples_instead_of_their_gram_matrix() -> None:
    """A linear layer with more columns than examples is solved through its samples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 4)).eval()
    _, [found] = of(model, torch.randn(20, 1, 8, 8))
    assert found is not None
    assert sorted(found.order.tolist()) == [0, 1, 2]
    assert (np.diff(found.error) >= 0).all()


def test_maps_without_readers_have_no_score() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    images = torch.randn(8, 3)
    space = search_space(model, images[:1])
    assert eliminations(space, dict(named_tensors(model)), {}) == (None,)


def test_the_expected_time_is_that_of_the_slowest_thread() -> None:
    """Inverses of 5 and 7 columns, and as many maps times the weights of their readers."""
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4)).eval()
    space = search_space(model, torch.randn(2, 3))
    weight, product = elimination.SECONDS_A_WEIGHT, elimination.SECONDS_A_PRODUCT
    first, second = 5 * 35 * weight + 5**3 * product, 7 * 28 * weight + 7**3 * product
    assert elimination.expected_seconds(space, 1) == pytest.approx(first + second)
    assert elimination.expected_seconds(space, 2) == pytest.approx(second)
