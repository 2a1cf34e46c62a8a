"""The keys of a config that carry a mark."""

from functools import cache

from evoprune.config.complaints import known_keys
from evoprune.config.fields import Mark
from evoprune.config.schema import Config


@cache
def keys_with(mark: Mark) -> frozenset[str]:
    """The dotted keys that carry a mark, either themselves or through their section; marked sections included."""
    own = set()
    for key, field in known_keys(Config).items():  # sections come before their keys
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        marks = extra.get("marks")
        if key.rpartition(".")[0] in own or (isinstance(marks, list) and mark in marks):
            own.add(key)
    return frozenset(own)
