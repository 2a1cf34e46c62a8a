"""Recipes: every built-in one and one of a user's own under the same tests."""

from typing import get_args

import pytest
import torch
from torch import nn

from evoprune.config.choices import RecipeName
from evoprune.config.schema import TrainConfig
from evoprune.data.images import ImageArray
from evoprune.data.splits import Split
from evoprune.errors import UserError
from evoprune.training.averaging import WeightAverage
from evoprune.training.fit import FitState, fit
from evoprune.training.recipes import RECIPES, SGD, find_recipe, make_recipe
from tests.few_images import few

CPU = torch.device("cpu")
OWN = "tests.plugins.own_recipes"
TRAIN = TrainConfig(epochs=3, batch_size=16, learning_rate=0.01)


@pytest.fixture(scope="module")
def split() -> Split:
    images, labels, *_ = few()
    return Split(ImageArray(images[:80]), labels[:80], torch.zeros(1), torch.ones(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(576, 10)
    )


def trained(
    split: Split, reference: str, ema: float, state: FitState | None = None, until: int | None = None
) -> list[FitState]:
    states: list[FitState] = []
    model = network()
    recipe = make_recipe(find_recipe(reference), reference)
    mask = torch.arange(36).reshape(4, 1, 3, 3) % 3 > 0
    fit(
        model,
        split,
        TRAIN,
        0,
        CPU,
        recipe=recipe,
        average_decay=ema,
        masks={"0.weight": mask},
        state=state,
        until=until,
        on_epoch=lambda _, reached: states.append(reached),
    )
    return states


def test_names_are_those_of_the_config() -> None:
    assert sorted(get_args(RecipeName)) == sorted(name for name in RECIPES.names)
    assert all(summary for _, summary in RECIPES.describe())


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("reference", [*get_args(RecipeName), f"{OWN}:Noisy"])
def test_training_that_goes_on_is_as_if_never_interrupted(split: Split, reference: str, ema: float) -> None:
    whole = trained(split, reference, ema)
    first = trained(split, reference, ema, until=1)
    second = trained(split, reference, ema, state=first[-1], until=2)
    last = trained(split, reference, ema, state=second[-1])
    for expected, reached in zip(whole, (first[-1], second[-1], last[-1]), strict=True):
        assert expected.tensors.keys() == reached.tensors.keys()
        assert all(torch.equal(tensor, reached.tensors[name]) for name, tensor in expected.tensors.items())
    assert not torch.equal(whole[0].weights["0.weight"], whole[2].weights["0.weight"])
    assert not whole[2].weights["0.weight"].flatten()[::3].any()  # masked


def test_the_average_by_hand() -> None:
    model = nn.BatchNorm1d(1)
    average = WeightAverage(model, 0.75)
    for number in (5, 9):  # the weight is 1 at first
        nn.init.constant_(model.weight, number)
        assert model.num_batches_tracked is not None
        model.num_batches_tracked += 1
        average.update()
    assert average.tensors["weight"].item() == 0.75 * (0.75 * 1 + 0.25 * 5) + 0.25 * 9
    assert average.tensors["num_batches_tracked"].item() == 2


def test_survivors_have_the_average_and_training_the_weights(split: Split) -> None:
    plain, averaged = (trained(split, "sgd", ema, until=1)[0] for ema in (0.0, 0.5))
    assert all(torch.equal(tensor, averaged.tensors[name]) for name, tensor in plain.tensors.items())
    assert averaged.weights.keys() == plain.weights.keys()
    assert not torch.equal(averaged.weights["0.weight"], plain.weights["0.weight"])


def test_states_of_older_versions_have_the_momentum(split: Split) -> None:
    assert "momentum.0.weight" in trained(split, "sgd", 0.0, until=1)[0].tensors


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            "Raises",
            r"^retrain\.recipe: .*:Raises: optimiser failed \(KeyError: 'lr'\); correct it; a run",
        ),
        ("NoOptimiser", r":NoOptimiser: optimiser returned a list, not a torch optimiser"),
        ("NumberOfSteps", r"retrain\.recipe: the optimiser SGD keeps steps as a int, not as a tensor"),
        ("NaNRate", r":NaNRate: learning_rate returned nan for step 1, not a number from 0 up"),
        (
            "Cropped",
            r":Cropped: augmented returned torch.float32 \(16, 1, 14, 13\), not torch.float32 \(16",
        ),
        ("NoLoss", r":NoLoss: update must return the loss before the step, a tensor of one number"),
        ("NaNLoss", r"training: the loss is (nan|inf) at step 2|the weights are not finite"),
        ("StateOfNumbers", r":StateOfNumbers: state must return tensors by name"),
        ("Constructed", r":Constructed: its constructor failed \(TypeError"),
        ("number", r":number must make an ep\.Recipe, not a int"),
        ("NOT_CALLABLE", r":NOT_CALLABLE must be a subclass of ep\.Recipe, not a int"),
    ],
)
def test_mistakes_name_the_recipe_and_the_call(split: Split, recipe: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        trained(split, f"{OWN}:{recipe}", 0.0, until=1)
    assert "\n" not in str(caught.value)


def test_a_mistake_of_evoprune_is_none_of_the_users(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SGD, "optimiser", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained(split, "sgd", 0.0, until=1)
