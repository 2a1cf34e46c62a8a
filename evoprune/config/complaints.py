"""Validation errors as sentences that name the place, the rule and the value."""

import difflib
import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from evoprune.config.plugin_names import UNKNOWN_PLUGIN

_LONGEST_SHOWN = 60


def known_keys(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """The fields of a schema by dotted key; a section comes before its keys."""
    keys = {}
    for name, field in model.model_fields.items():
        keys[prefix + name] = field
        if section := section_of(field):
            keys |= known_keys(section, f"{prefix}{name}.")
    return keys


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The schema of a field that is a section; None for a field that holds a value."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def unknown_key(place: str, keys: dict[str, FieldInfo]) -> str:
    """The message for an unknown key, with the nearest known one."""
    return f"unknown key '{place}' (did you mean '{_nearest_key(place, keys)}'?)"


def complaints(
    error: ValidationError,
    data: Mapping[str, Any],
    keys: dict[str, FieldInfo],
    source_of: Callable[[str], str],
) -> list[str]:
    """One message for each place that pydantic reports, unknown keys first.

    Args:
        error: The result of the validation.
        data: The mappings that were validated.
        keys: The fields of the schema by dotted key.
        source_of: Gives the file or the option in which a dotted place was written.
    """
    unknown: dict[str, str] = {}
    broken: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            unknown.setdefault(place, unknown_key(place, keys))
            continue
        # pydantic also reports list positions and union members, which are not places in a config
        while place and place not in keys:
            place = place.rpartition(".")[0]
        broken.setdefault(place, _broken_rule(place, detail, data, keys))
    return [f"{source_of(place)}: {text}" for place, text in (unknown | broken).items()]


def _broken_rule(place: str, detail: ErrorDetails, data: Mapping[str, Any], keys: dict[str, FieldInfo]) -> str:
    kind, message = detail["type"], detail["msg"]
    if not place:  # a rule of the whole config, whose message names its keys
        return message
    field = keys[place]
    if kind == "missing":
        return f"{place} is missing; write `{place}: ...` ({field.description})"
    section = section_of(field)
    value = _value_at(place, data)
    if section and isinstance(value, Mapping):
        return f"{place} {message}"
    if section:
        inner = ", ".join(section.model_fields)
        return f"{place} must be a section with keys of its own ({inner}), not {_shown(value)}"
    extra = field.json_schema_extra
    rule = extra["rule"] if isinstance(extra, dict) else message
    if kind == UNKNOWN_PLUGIN and (nearest := detail["ctx"]["nearest"]):
        return f"{place} must be {rule}, not {_shown(value)} (did you mean '{nearest}'?)"
    if kind == "string_too_long":
        rule = f"{rule}, of at most {detail['ctx']['max_length']:,} characters"
    return f"{place} must be {rule}, not {_shown(value)}"


def _nearest_key(place: str, keys: dict[str, FieldInfo]) -> str:
    """The most similar known key: first in the same section, then of the same name in another, then of all."""
    section, _, leaf = place.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == section}
    elsewhere = {key.rpartition(".")[2]: key for key in reversed(keys)}
    beside = siblings if section else {}
    for named, cutoff in ((siblings, 0.6), (elsewhere, 0.8), (beside, 0)):
        if match := difflib.get_close_matches(leaf, named, n=1, cutoff=cutoff):
            return named[match[0]]
    return difflib.get_close_matches(place, keys, n=1, cutoff=0)[0]


def _value_at(place: str, data: Any) -> Any:
    for part in place.split("."):
        data = data[part]
    return data


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
