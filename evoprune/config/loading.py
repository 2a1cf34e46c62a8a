"""Reading a config: YAML and overrides in, a validated `Config` out, and back."""

import json
import shlex
from collections.abc import Container, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from evoprune.config.choices import LIBRARIES
from evoprune.config.complaints import complaints, known_keys, unknown_key
from evoprune.config.schedules import kept_fractions
from evoprune.config.schema import Config, SearchConfig
from evoprune.config.strict_yaml import MOST_CHARACTERS, read_yaml, write_yaml
from evoprune.errors import ConfigError, is_utf8
from evoprune.plugins.kinds import REGISTRIES

OVERRIDE_SOURCE = "--set"

Schema = TypeVar("Schema", bound=BaseModel)


def load_config(path: Path | str, overrides: Mapping[str, object] | None = None) -> Config:
    """Reads, overrides and validates the YAML file of an experiment.

    Args:
        path: The file.
        overrides: Values by dotted key, such as {"search.population": 16}.

    Raises:
        ConfigError: One line with the first mistake and the number of others.
    """
    return config_from_dict(read_mapping(Path(path)), overrides, source=str(path))


def config_from_dict(
    data: Mapping[str, Any], overrides: Mapping[str, object] | None = None, source: str = "config"
) -> Config:
    """Validates an experiment given as nested mappings.

    Args:
        data: The sections and keys.
        overrides: As in `load_config`.
        source: The place that error messages name.

    Raises:
        ConfigError: As in `load_config`.
    """
    config = validated(Config, data, overrides, source)
    round_configs(config, source)
    return config


def validated(
    schema: type[Schema], data: Mapping[str, Any], overrides: Mapping[str, object] | None = None, source: str = "config"
) -> Schema:
    """Validates nested mappings against any schema; arguments and errors as in `config_from_dict`."""
    overrides = overrides or {}
    keys = known_keys(schema)
    found = [f"{OVERRIDE_SOURCE}: {unknown_key(key, keys)}" for key in overrides if key not in keys]
    merged = _plain(data, source)
    for key, value in overrides.items():
        if key in keys:
            _put(merged, key.split("."), _plain(value, OVERRIDE_SOURCE))
    for place, text in _not_utf8(merged):
        raise ConfigError(f"{_source_of(place, overrides, source)}: {place} must be in UTF-8, not {text}; rename it")
    try:
        # strict JSON instead of strict Python, in which a list is not a tuple and a mapping not a section
        valid = schema.model_validate_json(json.dumps(merged))
    except ValidationError as error:
        found += complaints(error, merged, keys, lambda place: _source_of(place, overrides, source))
    if found:
        others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ConfigError(found[0] + others)
    return valid


def read_mapping(path: Path, what: str = "an experiment's YAML file") -> Mapping[str, Any]:
    """Reads a YAML file that holds a mapping.

    Args:
        path: The file.
        what: The kind of file that error messages ask for.

    Raises:
        ConfigError: There is no such file, or it is too large, not YAML or not a mapping.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)  # read_yaml refuses longer ones
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: config file not found; give the path of {what}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text in UTF-8; give the path of {what}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of {what}") from error
    except ValueError as error:  # a path with a null character
        raise ConfigError(f"{path}: not a path ({error}); give the path of {what}") from error
    try:
        data = read_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, Mapping):
        found = "a list" if isinstance(data, list) else "a single value"
        problem = "is empty" if data is None else f"must be a mapping of keys to values, not {found}"
        raise ConfigError(f"{path}: {problem}; write `name: ...` and each key that differs from its default")
    return data


def round_configs(config: Config, source: str = "config") -> tuple[Config, ...]:
    """The rounds of a run, each as a config without rounds; the config itself if it has none.

    Args:
        config: With `search.rounds`, with the steps of a schedule, or with neither.
        source: The place that error messages name.

    Raises:
        ConfigError: A round is not a valid config, or a round before the last one searches over masks.
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
    """The rounds of a schedule. All but the last one keep a single survivor, which the next round starts from."""
    [target] = search.targets
    rounds: list[dict[str, Any]] = [
        {"search": {"target_cost": share, "schedule": "one_shot", "steps": 1}, "retrain": {"survivors": 1}}
        for share in kept_fractions(search.schedule, search.steps, target)
    ]
    del rounds[-1]["retrain"]
    return rounds


def trusted_keys(config: Config) -> dict[str, object]:
    """The keys, with their values, by which a config runs code, joins a cluster, or reads files.

    Whoever resumes or exports a run repeats them, because the run folder may come from somebody else.
    """
    data, model, address = config.data, config.model, config.workers.address
    keys: dict[str, object] = {**_own_plugins(config)}
    if any(_own_plugins(settings).items() - keys.items() for settings in round_configs(config)):
        keys["search.rounds"] = config.search.rounds
    if data.root is not None:
        keys["data.root"] = data.root
    if model.weights not in (None, "pretrained"):
        keys["model.weights"] = str(model.weights)
    if address not in (None, "auto"):
        keys["workers.address"] = str(address)
    return keys


def _own_plugins(config: Config) -> dict[str, str]:
    """The keys, with their values, that name the user's own code as `module:attribute`."""
    flat = {key: reduce(getattr, key.split("."), config) for key in known_keys(Config)}
    named = {key: str(flat[key]) for key in REGISTRIES if key in flat}
    return {key: name for key, name in named.items() if ":" in name and not name.startswith(LIBRARIES)}


_CONSEQUENCES = dict.fromkeys((*REGISTRIES, "search.rounds"), "would run code") | {
    "data.root": "would read files of yours",
    "model.weights": "would read files of yours",
    "workers.address": "would send data to a cluster",
}


def refuse_untrusted(config: Config, source: Path, named: Container[str] = (), unused: Container[str] = ()) -> None:
    """Refuses the config of a run folder if it has trusted keys that the user has not repeated.

    Args:
        config: The config in the folder.
        source: Its file.
        named: The keys that the user has repeated.
        unused: Keys whose values will not be used.

    Raises:
        ConfigError: With the options that repeat all of them, to paste.
    """
    missing = {key: value for key, value in trusted_keys(config).items() if key not in named and key not in unused}
    for key, value in missing.items():
        raise ConfigError(
            f"{source}: {key} is {_as_yaml(value)}, which {_CONSEQUENCES[key]}, and the run folder may come from "
            f"somebody else; if you trust it, name it again: {repeated(missing)}"
        )


def repeated(keys: Mapping[str, object]) -> str:
    """Keys and values as command-line options, quoted for YAML and for the shell: `--set data.root=/images`."""
    return " ".join(f"--set {shlex.quote(f'{key}={_as_yaml(value)}')}" for key, value in keys.items())


def dump_config(config: Config) -> str:
    """The config as YAML with all keys; `load_config` reads it back to an equal config."""
    return write_yaml(config.model_dump(mode="json"))


def parse_override(text: str) -> tuple[str, object]:
    """Splits an override into key and value: `search.tolerance=0.01` -> ("search.tolerance", 0.01).

    Raises:
        ConfigError: The text has no key or no `=`, or the value is not valid YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not key or not equals:
        raise ConfigError(f"{OVERRIDE_SOURCE} must be KEY=VALUE, as search.population=16, not {text}")
    try:
        return key, read_yaml(value)
    except ValueError as error:
        raise ConfigError(f"{OVERRIDE_SOURCE}: the value of {key} is not valid YAML: {error}") from error


def _as_yaml(value: object) -> str:
    """A value as YAML in one line: a text plain if it reads back as itself, otherwise quoted and escaped."""
    if not isinstance(value, str):
        return json.dumps(value)
    text = value
    escaped = text.encode("unicode_escape").decode().replace('"', '\\"')
    try:
        return text if read_yaml(text) == text else f'"{escaped}"'
    except ValueError:
        return f'"{escaped}"'


def _plain(value: Any, source: str) -> Any:
    """A deep copy in JSON types alone: dates and paths become text."""
    try:
        return json.loads(json.dumps(value, default=str))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{source}: must have plain keys and values ({error})") from error


def _not_utf8(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The texts that no config file could hold, as keys or values, each with its place."""
    if isinstance(value, str) and not is_utf8(value):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _not_utf8(key, place)
            yield from _not_utf8(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _not_utf8(inner, place)


def _put(data: dict[str, Any], path: list[str], value: Any) -> None:
    """Sets a value at a path in nested dicts; a mapping is merged into the section at that path."""
    head, *rest = path
    section = data.setdefault(head, {}) if rest or isinstance(value, dict) else None
    if rest:
        # validation reports a section that is not a mapping
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
