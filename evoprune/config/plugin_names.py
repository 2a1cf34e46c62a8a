"""Config values that name a plug-in: a built-in one by its name, or one of the user's as `module:attribute`."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from evoprune.plugins.registry import Registry

UNKNOWN_PLUGIN = "unknown_plugin"
"""The type of the error; its context has the nearest name, or none."""

_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_REFERENCE = re.compile(f"{_DOTTED}:{_DOTTED}")
_LONGEST = 1000


@dataclass(frozen=True)
class PluginName:
    """A pydantic annotation of a text: one of some names, or `module:attribute`.

    A name that the user's code has registered becomes the `module:attribute` of its plug-in, so that a config that was
    written down says where the plug-in comes from.

    Attributes:
        registry: the registry of the kind.
        names: the names that are allowed besides those that the user's code has registered.
    """

    registry: Registry
    names: Sequence[str]

    @property
    def rule(self) -> str:
        """The rule for a value, as it follows "must be" in an error message."""
        return f"one of {', '.join(self.names)}, or module:attribute for one of your own"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: str) -> str:
        if value in self.names:
            return value
        reference = self.registry.reference(value)
        if len(reference) <= _LONGEST and _REFERENCE.fullmatch(reference):
            return reference
        known = [*self.names, *self.registry.names]
        nearest = difflib.get_close_matches(value, known, n=1, cutoff=0.6)
        raise PydanticCustomError(
            UNKNOWN_PLUGIN, "must be {rule}", {"rule": self.rule, "nearest": nearest[0] if nearest else None}
        )
