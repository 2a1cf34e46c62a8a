"""Recipes by name. Importing this file registers the built-in ones."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from evoprune.errors import PluginError
from evoprune.plugins.guard import Checks, guarded, plugin_call
from evoprune.plugins.kinds import RECIPES
from evoprune.training.adamw import AdamW
from evoprune.training.recipe import Recipe
from evoprune.training.sgd import SGD

__all__ = ["RECIPES", "SGD", "AdamW", "find_recipe", "make_recipe"]


def find_recipe(reference: str) -> Callable[[], Recipe]:
    """What `retrain.recipe` names: a class, or another callable that makes a recipe.

    Raises:
        ConfigError: there is none.
        PluginError: it cannot be called.
    """
    found: Callable[[], Recipe] = RECIPES.find(reference)
    if not callable(found):
        raise PluginError(f"{RECIPES.key}: {reference} must be a subclass of ep.Recipe, not a {type(found).__name__}")
    return found


def make_recipe(make: Callable[[], Recipe], reference: str) -> Recipe:
    """A new recipe, for one network.

    Args:
        make: as `find_recipe` returns it.
        reference: its name, for messages.

    Raises:
        PluginError: it fails, or makes something else.
    """
    with plugin_call(RECIPES.key, reference, "its constructor"):
        recipe = make()
    if not isinstance(recipe, Recipe):
        raise PluginError(f"{RECIPES.key}: {reference} must make an ep.Recipe, not a {type(recipe).__name__}")
    return guarded(recipe, RECIPES.key, reference, _CHECKS)


def _check_optimiser(result: Any, *_: Any) -> str | None:
    return None if isinstance(result, Optimizer) else f"returned a {type(result).__name__}, not a torch optimiser"


def _check_rate(result: Any, step: int, *_: Any) -> str | None:
    good = isinstance(result, int | float) and math.isfinite(result) and result >= 0
    return None if good else f"returned {result!r} for step {step}, not a number from 0 up"


def _check_images(result: Any, images: Tensor, *_: Any) -> str | None:
    if isinstance(result, Tensor) and result.shape == images.shape and result.dtype == images.dtype:
        return None
    found = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
    return f"returned {found}, not {images.dtype} {tuple(images.shape)}, as it was given"


def _check_loss(result: Any, *_: Any) -> str | None:
    good = isinstance(result, Tensor) and result.numel() == 1
    return None if good else "must return the loss before the step, a tensor of one number"


def _check_state(result: Any) -> str | None:
    good = isinstance(result, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in result.items()
    )
    return None if good else "must return tensors by name"


_CHECKS: Checks = (
    ("optimiser", _check_optimiser),
    ("learning_rate", _check_rate),
    ("augmented", _check_images),
    ("update", _check_loss),
    ("state", _check_state),
)
