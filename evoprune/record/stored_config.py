"""The config in a run folder, read as a description of the run."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from evoprune.config.complaints import section_of
from evoprune.config.loading import config_from_dict, read_mapping
from evoprune.config.schema import Config

_log = logging.getLogger(__name__)


def read_config(path: Path) -> Config:
    """The config of a run that is only read; keys that this version does not know are left out, with a warning.

    A run that goes on reads its config with `load_config`, which refuses them.

    Raises:
        ConfigError: the file cannot be read, or a known key has no valid value.
    """
    data = read_mapping(path)
    if unknown := list(_unknown(data, Config, "")):
        _log.warning(
            "%s has keys that this version of evoprune does not know (%s), so a newer one may have made the run; "
            "they are left out",
            *(path, ", ".join(unknown)),
        )
    return config_from_dict(_known(data, Config), source=str(path))


def _unknown(data: Mapping[str, Any], schema: type[BaseModel], prefix: str) -> Iterator[str]:
    """The dotted keys that the schema does not have."""
    for key, value in data.items():
        field = schema.model_fields.get(key)
        if field is None:
            yield f"{prefix}{key}"
        elif (section := section_of(field)) and isinstance(value, Mapping):
            yield from _unknown(value, section, f"{prefix}{key}.")


def _known(data: Mapping[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    """The data without these keys."""
    kept = {}
    for key, value in data.items():
        if (field := schema.model_fields.get(key)) is not None:
            section = section_of(field)
            kept[key] = _known(value, section) if section and isinstance(value, Mapping) else value
    return kept
