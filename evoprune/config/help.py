"""What every key of a config means, read from the schema."""

import json
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from evoprune.config.complaints import known_keys
from evoprune.config.schema import Config


@dataclass(frozen=True)
class KeyHelp:
    """One key. kind: what its value must be. default: in YAML, or `required`. unit: empty where it has none."""

    key: str
    kind: str
    default: str
    unit: str
    meaning: str


def config_help() -> list[KeyHelp]:
    """Every key that holds a value, dotted, in the order of the schema."""
    rows = []
    for key, field in known_keys(Config).items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue  # a section: its keys follow
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = "required" if field.is_required() else _as_yaml(field.default)
        kind, unit = str(extra.get("rule") or ""), str(extra.get("unit") or "")
        rows.append(KeyHelp(key, kind, default, unit, field.description or ""))
    return rows


def _as_yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(to_jsonable_python(value))
