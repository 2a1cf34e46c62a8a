"""Costs by name. Importing this file registers the built-in ones."""

import json
import math
import re
from typing import Any

from evoprune.costs.cost_model import CostModel
from evoprune.costs.macs import Macs
from evoprune.costs.params import Params
from evoprune.costs.predicted_latency import PredictedLatency
from evoprune.costs.stored_bytes import StoredBytes
from evoprune.errors import PluginError
from evoprune.plugins.guard import guarded, is_own, plugin_call
from evoprune.plugins.kinds import COSTS

__all__ = ["COSTS", "COUNTED", "Macs", "Params", "PredictedLatency", "StoredBytes", "find_cost"]

COUNTED = ("macs", "params", "bytes")
"""Costs that every candidate has, whichever one the search minimises."""

_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,59}")


def find_cost(name: str) -> CostModel:
    """A new cost of a name in `COSTS`, or one that `module:attribute` names.

    Raises:
        ConfigError: there is none.
        PluginError: it is none, or its constructor, its name or its unit is not as it should be.
    """
    found = COSTS.find(name)
    if not is_own(name):
        built_in: CostModel = found()
        return built_in
    if isinstance(found, CostModel):
        own = found
    elif callable(found):
        with plugin_call(COSTS.key, name, "its constructor"):
            own = found()
    else:
        raise PluginError(f"{COSTS.key}: {name} must be a subclass of ep.CostModel, not a {type(found).__name__}")
    if not isinstance(own, CostModel):
        raise PluginError(f"{COSTS.key}: {name} must make an ep.CostModel, not a {type(own).__name__}")
    for attribute in ("name", "unit"):
        value = getattr(own, attribute, None)
        if not isinstance(value, str) or (attribute == "name" and not _COLUMN.fullmatch(value)):
            rule = "lowercase letters, digits and '_', with a letter first" if attribute == "name" else "a text"
            raise PluginError(f"{COSTS.key}: {name}.{attribute} must be {rule}, not {value!r}; correct it")
    return guarded(own, COSTS.key, name, (("of", _check_cost), ("measure", _check_measured)))


def _check_cost(result: Any, *_: Any) -> str | None:
    try:
        good = math.isfinite(result) and result >= 0
    except TypeError:
        good = False
    return None if good else f"returned {result!r}, not a finite number, 0 or more"


def _check_measured(result: Any, *_: Any) -> str | None:
    try:
        json.dumps(result, allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"must return plain JSON data ({error})"
    return None
