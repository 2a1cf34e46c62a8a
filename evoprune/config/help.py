"""The meaning of every key of a config, read from the schema."""

import json
from dataclasses import dataclass

from pydantic_core import to_jsonable_python

from evoprune.config.complaints import known_keys, section_of
from evoprune.config.schema import Config


@dataclass(frozen=True)
class KeyHelp:
    """The description of one key.

    Attributes:
        key: Dotted, as in `search.tolerance`.
        kind: What its value must be.
        default: In YAML, or `required`.
        unit: Empty for a key without a unit.
        meaning: What it is for.
    """

    key: str
    kind: str
    default: str
    unit: str
    meaning: str


def config_help() -> list[KeyHelp]:
    """All keys that hold a value, in the order of the schema."""
    rows = []
    for key, field in known_keys(Config).items():
        if section_of(field):
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = "required" if field.is_required() else _as_yaml(field.default)
        kind, unit = str(extra.get("rule") or ""), str(extra.get("unit") or "")
        rows.append(KeyHelp(key, kind, default, unit, field.description or ""))
    return rows


def _as_yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(to_jsonable_python(value))
