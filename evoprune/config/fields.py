"""Fields of the schema: each with its description, its unit, and the rule that a complaint about it says."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field


def value(
    default: Any,
    description: str,
    rule: str,
    unit: str | None = None,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    min_length: int | None = None,
    pattern: str | None = None,
) -> Any:
    """A pydantic field whose rule and unit can be read from the schema, to complain and to document."""
    return Field(
        default,
        description=description,
        json_schema_extra={"rule": rule, "unit": unit},
        ge=ge,
        gt=gt,
        le=le,
        lt=lt,
        min_length=min_length,
        pattern=pattern,
    )


def flag(default: bool, description: str) -> Any:
    """Yes or no."""
    return value(default, description, "true or false")


def whole(default: int | None, description: str, unit: str, least: int = 1) -> Any:
    """A count of something; null where that is the default."""
    rule = f"a whole number, {least} or more" + (", or null" if default is None else "")
    return value(default, description, rule, unit, ge=least)


def fraction(default: float, description: str, example: str) -> Any:
    """A share, from 0 to 1. example: what one such number means."""
    return value(default, description, f"between 0 and 1 (a fraction: {example})", "fraction", ge=0, le=1)


def positive(default: float, description: str) -> Any:
    """A number above 0."""
    return value(default, description, "a number above 0", gt=0)


def choice(default: str, description: str, choices: Any) -> Any:
    """One of the names of a Literal type."""
    return value(default, description, "one of " + ", ".join(get_args(choices)))


class Section(BaseModel):
    """Part of a config: frozen, without unknown keys, strict about types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
