"""evoprune: evolutionary structured pruning of convolutional networks.

The public names are imported when they are first used, so that `import evoprune` is quick.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from evoprune.errors import PluginError, UserError

if TYPE_CHECKING:
    from evoprune.config.schema import RecordConfig, RetrainConfig, SearchConfig, SpaceConfig, WorkersConfig
    from evoprune.costs.cost_model import CostModel, remaining_layers
    from evoprune.criteria.criterion import Criterion, CriterionContext, WeightCriterion
    from evoprune.criteria.importance import LayerValues
    from evoprune.discovery.discover import search_space
    from evoprune.pipeline.evolve import evolve
    from evoprune.pipeline.run import resume, run
    from evoprune.plugins.kinds import algorithm, cost_model, criterion, dataset, network, recipe, task
    from evoprune.record.gather import load_candidates, load_runs
    from evoprune.record.runs import Run, load_run
    from evoprune.search.algorithm import Algorithm
    from evoprune.search.inputs import SearchInputs
    from evoprune.space.cost import cost
    from evoprune.space.search_space import SearchSpace
    from evoprune.surgery.apply import compact, mask
    from evoprune.surgery.layer_statistics import gram_statistics
    from evoprune.surgery.lowering.lower import lower
    from evoprune.tasks.task import Task
    from evoprune.training.recipe import Recipe

    __version__: str

__all__ = [
    "Algorithm",
    "CostModel",
    "Criterion",
    "CriterionContext",
    "LayerValues",
    "PluginError",
    "Recipe",
    "RecordConfig",
    "RetrainConfig",
    "Run",
    "SearchConfig",
    "SearchInputs",
    "SearchSpace",
    "SpaceConfig",
    "Task",
    "UserError",
    "WeightCriterion",
    "WorkersConfig",
    "__version__",
    "algorithm",
    "compact",
    "cost",
    "cost_model",
    "criterion",
    "dataset",
    "evolve",
    "gram_statistics",
    "load_candidates",
    "load_run",
    "load_runs",
    "lower",
    "mask",
    "network",
    "recipe",
    "remaining_layers",
    "resume",
    "run",
    "search_space",
    "task",
]

_HOMES = {
    "Algorithm": "evoprune.search.algorithm",
    "CostModel": "evoprune.costs.cost_model",
    "Criterion": "evoprune.criteria.criterion",
    "CriterionContext": "evoprune.criteria.criterion",
    "LayerValues": "evoprune.criteria.importance",
    "Recipe": "evoprune.training.recipe",
    "RecordConfig": "evoprune.config.schema",
    "RetrainConfig": "evoprune.config.schema",
    "Run": "evoprune.record.runs",
    "SearchConfig": "evoprune.config.schema",
    "SearchInputs": "evoprune.search.inputs",
    "Task": "evoprune.tasks.task",
    "SearchSpace": "evoprune.space.search_space",
    "SpaceConfig": "evoprune.config.schema",
    "WeightCriterion": "evoprune.criteria.criterion",
    "WorkersConfig": "evoprune.config.schema",
    "algorithm": "evoprune.plugins.kinds",
    "compact": "evoprune.surgery.apply",
    "cost": "evoprune.space.cost",
    "cost_model": "evoprune.plugins.kinds",
    "criterion": "evoprune.plugins.kinds",
    "dataset": "evoprune.plugins.kinds",
    "evolve": "evoprune.pipeline.evolve",
    "gram_statistics": "evoprune.surgery.layer_statistics",
    "load_candidates": "evoprune.record.gather",
    "load_run": "evoprune.record.runs",
    "load_runs": "evoprune.record.gather",
    "lower": "evoprune.surgery.lowering.lower",
    "mask": "evoprune.surgery.apply",
    "network": "evoprune.plugins.kinds",
    "recipe": "evoprune.plugins.kinds",
    "remaining_layers": "evoprune.costs.cost_model",
    "resume": "evoprune.pipeline.run",
    "run": "evoprune.pipeline.run",
    "search_space": "evoprune.discovery.discover",
    "task": "evoprune.plugins.kinds",
}


if not TYPE_CHECKING:  # so that type checkers report names that do not exist

    def __getattr__(name: str) -> object:
        """Imports a public name from its home on first use (PEP 562)."""
        if name == "__version__":
            return version("evoprune")
        if name not in _HOMES:
            raise AttributeError(f"module 'evoprune' has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
