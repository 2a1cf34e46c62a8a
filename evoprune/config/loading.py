"""An experiment's config: YAML and overrides in, the validated object of `config` out, and back."""

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from evoprune.config.complaints import complaints, known_keys, unknown_key
from evoprune.config.schedules import kept_fractions
from evoprune.config.schema import Config, SearchConfig
from evoprune.config.strict_yaml import read_yaml
from evoprune.errors import ConfigError

OVERRIDE_SOURCE = "--set"

Schema = TypeVar("Schema", bound=BaseModel)


def load_config(path: Path | str, overrides: Mapping[str, object] | None = None) -> Config:
    """Reads, overrides and validates an experiment's YAML file.

    overrides: dotted key -> value, as {"search.population": 16}.
    Raises ConfigError: one line with the first complaint and the number of others.
    """
    return config_from_dict(read_mapping(Path(path)), overrides, source=str(path))


def config_from_dict(
    data: Mapping[str, Any], overrides: Mapping[str, object] | None = None, source: str = "config"
) -> Config:
    """Validates an experiment given as nested mappings; `source` is the place that complaints name.

    Raises ConfigError as load_config does.
    """
    config = validated(Config, data, overrides, source)
    round_configs(config, source)
    return config


def validated(
    schema: type[Schema], data: Mapping[str, Any], overrides: Mapping[str, object] | None = None, source: str = "config"
) -> Schema:
    """Nested mappings as an object of a schema. Raises ConfigError as load_config does."""
    overrides = overrides or {}
    keys = known_keys(schema)
    found = [f"{OVERRIDE_SOURCE}: {unknown_key(key, keys)}" for key in overrides if key not in keys]
    merged = _plain(data, source)
    for key, value in overrides.items():
        if key in keys:
            _put(merged, key.split("."), _plain(value, OVERRIDE_SOURCE))
    try:
        # Strict JSON, not strict Python: there a list may stand for a tuple and a mapping for a section.
        valid = schema.model_validate_json(json.dumps(merged))
    except ValidationError as error:
        found += complaints(error, merged, keys, lambda place: _source_of(place, overrides, source))
    if found:
        others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ConfigError(found[0] + others)
    return valid


def read_mapping(path: Path, what: str = "an experiment's YAML") -> Mapping[str, Any]:
    """A YAML file's mapping. Raises ConfigError where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such config file; give the path of {what}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text in UTF-8; give the path of {what}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give {what}") from error
    try:
        data = read_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: is no valid YAML: {error}") from error
    if not isinstance(data, Mapping):
        found = "is empty" if data is None else f"is no mapping of keys but a {type(data).__name__}"
        raise ConfigError(f"{path}: {found}; write `name: ...` and what differs from the defaults")
    return data


def round_configs(config: Config, source: str = "config") -> tuple[Config, ...]:
    """Each round as a config that has no rounds, a schedule's steps too; the config itself where it has none.

    Raises ConfigError as load_config does, and where a round that is not the last searches over masks.
    """
    top = config.model_dump(mode="json")
    rounds = top["search"].pop("rounds")
    for number, sections in enumerate(rounds, 1):
        for key in ("rounds", "schedule", "steps"):
            if key in sections.get("search", {}):
                raise ConfigError(
                    f"{source}: search.rounds, round {number}: search.{key} must not be in a round; "
                    "write one list of rounds, at top level"
                )
    name = "search.rounds, round"
    if config.search.steps > 1:
        rounds, name = _steps(config.search), "search.steps, round"
    configs = []
    for number, sections in enumerate(rounds, 1):
        place = f"{source}: {name} {number}"
        merged = _plain(top, source)
        for section, values in sections.items():
            _put(merged, [section], values)
        configs.append(config_from_dict(merged, source=place))
        if number > 1 and configs[-1].retrain.start == "rewind_weights":
            raise ConfigError(
                f"{place}: retrain.start must not be rewind_weights in a round after the first, whose network was "
                "never trained at an early epoch; take rewind_learning_rate"
            )
        masks = [name for name in ("kernels", "strides") if getattr(configs[-1].space, name)]
        if masks and number < len(rounds):
            raise ConfigError(
                f"{place}: space.{masks[0]} must be false in all rounds but the last, not true "
                "(a round hands on whole feature maps, without masks); move it to the last round"
            )
    return tuple(configs) or (config,)


def _steps(search: SearchConfig) -> list[dict[str, Any]]:
    """The rounds of a schedule. Of all but the last one survivor is enough: the one that is handed on."""
    [target] = search.targets
    rounds: list[dict[str, Any]] = [
        {"search": {"target_cost": share, "schedule": "one_shot", "steps": 1}, "retrain": {"survivors": 1}}
        for share in kept_fractions(search.schedule, search.steps, target)
    ]
    del rounds[-1]["retrain"]
    return rounds


def trusted_keys(config: Config) -> dict[str, str]:
    """Keys by which a config has code run, and their values: `module:callable`, and a cluster at a given address.

    Whoever goes on with a run folder names them again, for the folder may be somebody else's.
    """
    named = {"data.dataset": config.data.dataset, "model.network": config.model.network}
    keys = {key: value for key, value in named.items() if ":" in value and not value.startswith("torchvision:")}
    address = config.workers.address
    return keys if address in (None, "auto") else keys | {"workers.address": str(address)}


def refuse_untrusted(config: Config, source: Path, named: Container[str] = ()) -> None:
    """Raises ConfigError where a run folder's config has code run that the user has not named again."""
    for key, value in trusted_keys(config).items():
        if key not in named:
            raise ConfigError(
                f"{source}: {key} is {value}, which would run code, and a run folder's files may not; "
                f"if it is your own, name it again: --set {key}={value}"
            )


def dump_config(config: Config) -> str:
    """The config as YAML with every key resolved; load_config reads it back to an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse_override(text: str) -> tuple[str, object]:
    """`search.tolerance=0.01` -> ("search.tolerance", 0.01); the value is read as YAML.

    Raises ConfigError where there is no key, no `=` or no valid YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not key or not equals:
        raise ConfigError(f"{OVERRIDE_SOURCE} must be KEY=VALUE, as search.population=16, not {text}")
    try:
        return key, read_yaml(value)
    except ValueError as error:
        raise ConfigError(f"{OVERRIDE_SOURCE}: {key} has a value that is no valid YAML: {error}") from error


def _plain(value: Any, source: str) -> Any:
    """A deep copy of JSON types alone, so that dates and paths are text and nothing is shared."""
    try:
        return json.loads(json.dumps(value, default=str))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{source}: must be plain keys and values ({error})") from error


def _put(data: dict[str, Any], path: list[str], value: Any) -> None:
    """Puts a value at its place in nested dicts; a mapping is merged into the section that is there."""
    head, *rest = path
    section = data.setdefault(head, {}) if rest or isinstance(value, dict) else None
    if rest:
        # A section that is no mapping is the file's own mistake, which validation reports.
        if isinstance(section, dict):
            _put(section, rest, value)
    elif isinstance(section, dict):
        for key, inner in value.items():
            _put(section, [key], inner)
    else:
        data[head] = value


def _source_of(place: str, overrides: Mapping[str, object], source: str) -> str:
    overridden = any(place == key or place.startswith(f"{key}.") for key in overrides)
    return OVERRIDE_SOURCE if overridden else source
