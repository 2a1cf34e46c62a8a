"""The kinds of plug-ins: a registry and a decorator for each."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

from evoprune.errors import ConfigError, DataError, NetworkError
from evoprune.plugins.registry import Registry

Plugin = TypeVar("Plugin")

CRITERIA = Registry("criterion", "criteria", "search.criterion", ConfigError)
ALGORITHMS = Registry("algorithm", "algorithms", "search.algorithm", ConfigError)
COSTS = Registry("cost", "costs", "search.cost", ConfigError)
RECIPES = Registry("recipe", "recipes", "retrain.recipe", ConfigError)
TASKS = Registry("task", "tasks", "task", ConfigError)
NETWORKS = Registry("network", "networks", "model.network", NetworkError)
DATASETS = Registry("data set", "datasets", "data.dataset", DataError)

REGISTRIES: Mapping[str, Registry] = MappingProxyType(
    {registry.key: registry for registry in (CRITERIA, ALGORITHMS, COSTS, RECIPES, TASKS, NETWORKS, DATASETS)}
)
"""The registry of every config key that names a plug-in."""


def criterion(name: str) -> Callable[[Plugin], Plugin]:
    """Registers a criterion of importance: a subclass of `Criterion`, or a function of a context.

    Args:
        name: lowercase letters, digits, '_' and '-'.

    Example:
        >>> @ep.criterion("smallest_first")
        ... class SmallestFirst(ep.Criterion): ...
    """
    return CRITERIA.register(name)


def algorithm(name: str) -> Callable[[Plugin], Plugin]:
    """Registers a search algorithm: a subclass of `Algorithm`.

    Args:
        name: lowercase letters, digits, '_' and '-'.

    Example:
        >>> @ep.algorithm("hill_climbing")
        ... class HillClimbing(ep.Algorithm): ...
    """
    return ALGORITHMS.register(name)


def cost_model(name: str) -> Callable[[Plugin], Plugin]:
    """Registers a cost that a search can minimise: a subclass of `CostModel`.

    Args:
        name: lowercase letters, digits, '_' and '-'; tables have the cost in a column of this name.

    Example:
        >>> @ep.cost_model("energy")
        ... class Energy(ep.CostModel): ...
    """
    return COSTS.register(name)


def recipe(name: str) -> Callable[[Plugin], Plugin]:
    """Registers a recipe of retraining: a subclass of `Recipe`.

    Args:
        name: lowercase letters, digits, '_' and '-'.

    Example:
        >>> @ep.recipe("rmsprop")
        ... class RMSprop(ep.Recipe): ...
    """
    return RECIPES.register(name)


def task(name: str) -> Callable[[Plugin], Plugin]:
    """Registers a task, which says what the outputs of a network are worth: a subclass of `Task`.

    Args:
        name: lowercase letters, digits, '_' and '-'.

    Example:
        >>> @ep.task("angles")
        ... class Angles(ep.Task): ...
    """
    return TASKS.register(name)


def network(name: str) -> Callable[[Plugin], Plugin]:
    """Registers a network: a function of `classes` and `image_shape` (c, h, w), or of those that it names.

    Args:
        name: lowercase letters, digits, '_' and '-'.

    Example:
        >>> @ep.network("tiny")
        ... def tiny(classes, image_shape):
        ...     return nn.Sequential(nn.Conv2d(image_shape[0], 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ...                          nn.Linear(8, classes))
    """
    return NETWORKS.register(name)


def dataset(name: str) -> Callable[[Plugin], Plugin]:
    """Registers a data set: a function without arguments.

    It returns train images, train labels, test images and test labels as arrays, or a pair of PyTorch data sets.

    Args:
        name: lowercase letters, digits, '_' and '-'.

    Example:
        >>> @ep.dataset("noise")
        ... def noise():
        ...     images, labels = np.random.rand(2, 100, 1, 28, 28), np.arange(100) % 10
        ...     return images[0], labels, images[1], labels
    """
    return DATASETS.register(name)
