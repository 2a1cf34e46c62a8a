"""Fields of the schema: each with a description, a unit, the rule that error messages give, and marks."""

from enum import StrEnum, auto
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field


class Mark(StrEnum):
    """A property of a key besides its type; `config.marks` lists the keys that carry one.

    A key without marks changes the results, stays fixed when a run is resumed, and is compared between runs.
    A mark on a section holds for all of its keys.
    """

    MAY_CHANGE = auto()  # a resumed run may have another value
    NO_RESULT = auto()  # results do not depend on it
    NOT_COMPARED = auto()  # runs that differ in nothing else have the same setting
    OUTSIDE_SEARCH = auto()  # the search of a single round does not depend on it
    SAME_IN_SWEEP = auto()  # all runs of a sweep share one value
    SAME_IN_STUDY = auto()  # all methods of a study share one value


def value(
    default: Any,
    description: str,
    rule: str,
    unit: str | None = None,
    *,
    marks: tuple[Mark, ...] = (),
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    pattern: str | None = None,
) -> Any:
    """A pydantic field that also carries what error messages, `evoprune help config` and `config.marks` read.

    Args:
        default: The default value; `...` for a required key.
        description: What the key means.
        rule: What a value must be, as it follows "must be" in an error message.
        unit: The unit of the value.
        marks: Properties of the key besides its type.
        ge, gt, le, lt: Bounds of a number.
        min_length, max_length: Bounds of the length of a text or a list.
        pattern: A regular expression that a text must match.
    """
    return Field(
        default,
        description=description,
        json_schema_extra={"rule": rule, "unit": unit, "marks": [*marks]},
        ge=ge,
        gt=gt,
        le=le,
        lt=lt,
        min_length=min_length,
        max_length=max_length,
        pattern=pattern,
    )


def flag(default: bool, description: str) -> Any:
    """A boolean."""
    return value(default, description, "true or false")


def whole(
    default: int | None, description: str, unit: str, *, least: int = 1, most: int, marks: tuple[Mark, ...] = ()
) -> Any:
    """A whole number from `least` to `most`, or null if the default is None."""
    rule = f"a whole number from {least} to {most:,}" + (", or null" if default is None else "")
    return value(default, description, rule, unit, marks=marks, ge=least, le=most)


def fraction(default: float, description: str, example: str, *, marks: tuple[Mark, ...] = ()) -> Any:
    """A fraction from 0 to 1. example: what one such number means."""
    return value(default, description, f"between 0 and 1 (a fraction: {example})", "fraction", marks=marks, ge=0, le=1)


def positive(default: float, description: str, *, most: float) -> Any:
    """A number above 0 and at most `most`."""
    return value(default, description, f"a number above 0 and at most {most:,}", gt=0, le=most)


def choice(default: str, description: str, choices: Any, *, marks: tuple[Mark, ...] = ()) -> Any:
    """One of the names of a Literal type."""
    return value(default, description, "one of " + ", ".join(get_args(choices)), marks=marks)


def plugin(default: str, description: str, choices: Any, *, marks: tuple[Mark, ...] = ()) -> Any:
    """A plug-in. choices: the annotation of the field, with a `PluginName`."""
    _, name = get_args(choices)
    return value(default, description, name.rule, marks=marks)


def section(default: "Section", description: str, *, marks: tuple[Mark, ...] = ()) -> Any:
    """A section with keys of its own, to all of which its marks apply."""
    return Field(default, description=description, json_schema_extra={"marks": [*marks]})


class Section(BaseModel):
    """Part of a config: frozen, without unknown keys, strict about types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
