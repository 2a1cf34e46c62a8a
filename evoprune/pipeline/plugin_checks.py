"""Checks of plug-ins before the first stage."""

from collections.abc import Sequence

from evoprune.config.schema import Config
from evoprune.costs.costs_by_name import find_cost
from evoprune.criteria.importance_by_name import find_criterion
from evoprune.errors import PluginError
from evoprune.plugins.guard import is_own
from evoprune.record.tables import CANDIDATE_DTYPES, SURVIVOR_DTYPES
from evoprune.search.algorithms import ALGORITHMS
from evoprune.training.recipes import find_recipe


def check_plugins(rounds: Sequence[Config]) -> None:
    """Finds every plug-in of a search and of retraining, so that a mistake is known before anything is computed.

    Args:
        rounds: the rounds of a run.

    Raises:
        ConfigError: there is no such plug-in.
        PluginError: it is of another kind, or a cost has the name of a column that tables have.
    """
    for config in rounds:
        search = config.search
        if search.criterion != "auto":
            find_criterion(search.criterion)
        ALGORITHMS.find(search.algorithm)
        find_recipe(config.retrain.recipe)
        cost = find_cost(search.cost)
        if is_own(search.cost) and cost.column in {*CANDIDATE_DTYPES, *SURVIVOR_DTYPES}:
            raise PluginError(
                f"search.cost: {search.cost}.name must not be {cost.column}, which is another column of the tables; "
                "choose another name"
            )
