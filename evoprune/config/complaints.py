"""What validation found, in sentences that name the place, the rule and the value."""

import difflib
import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

_LONGEST_SHOWN = 60


def known_keys(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every dotted key of a schema, sections before what is in them."""
    keys = {}
    for name, field in model.model_fields.items():
        keys[prefix + name] = field
        if section := _section(field):
            keys |= known_keys(section, f"{prefix}{name}.")
    return keys


def unknown_key(place: str, keys: dict[str, FieldInfo]) -> str:
    """The complaint about a key that there is not; names the nearest one that there is."""
    return f"{place} is no key; the nearest is {_nearest_key(place, keys)}"


def complaints(
    error: ValidationError,
    data: Mapping[str, Any],
    keys: dict[str, FieldInfo],
    source_of: Callable[[str], str],
) -> list[str]:
    """One line for every place that pydantic complains about, unknown keys first.

    data: what was validated. source_of: dotted place -> the file or option it was written in.
    """
    unknown: dict[str, str] = {}
    broken: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            unknown.setdefault(place, unknown_key(place, keys))
            continue
        # pydantic goes on to list positions and union members, which are no places in a config.
        while place and place not in keys:
            place = place.rpartition(".")[0]
        broken.setdefault(place, _broken_rule(place, detail["type"], detail["msg"], data, keys))
    return [f"{source_of(place)}: {text}" for place, text in (unknown | broken).items()]


def _broken_rule(place: str, kind: str, message: str, data: Mapping[str, Any], keys: dict[str, FieldInfo]) -> str:
    if not place:  # a rule of the whole config, which names its keys itself
        return message
    field = keys[place]
    if kind == "missing":
        return f"{place} is missing; write `{place}: ...` ({field.description})"
    section = _section(field)
    value = _value_at(place, data)
    if section and isinstance(value, Mapping):
        return f"{place} {message}"
    if section:
        inner = ", ".join(section.model_fields)
        return f"{place} must be a section with keys of its own ({inner}), not {_shown(value)}"
    extra = field.json_schema_extra
    rule = extra["rule"] if isinstance(extra, dict) else message
    return f"{place} must be {rule}, not {_shown(value)}"


def _nearest_key(place: str, keys: dict[str, FieldInfo]) -> str:
    """The known key that was most likely meant: beside the place, of that name elsewhere, or alike."""
    section, _, leaf = place.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == section}
    elsewhere = {key.rpartition(".")[2]: key for key in reversed(keys)}
    beside = siblings if section else {}
    for named, cutoff in ((siblings, 0.6), (elsewhere, 0.8), (beside, 0)):
        if match := difflib.get_close_matches(leaf, named, n=1, cutoff=cutoff):
            return named[match[0]]
    return difflib.get_close_matches(place, keys, n=1, cutoff=0)[0]


def _section(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _value_at(place: str, data: Any) -> Any:
    for part in place.split("."):
        data = data[part]
    return data


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
