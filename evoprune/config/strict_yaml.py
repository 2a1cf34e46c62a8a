"""YAML 1.2 with safe tags only and without duplicate keys: `010` is ten, `no` is text, `1e-3` is a number."""

from io import StringIO

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

MOST_CHARACTERS = 100_000
"""The reader takes a second for 40,000 characters on a slow machine, and no config is as long as this."""

MOST_VALUES = 100_000
"""A few aliases of aliases can stand for any number of values, and no config has as many as this."""


def read_yaml(text: str) -> object:
    """Reads one YAML document.

    Args:
        text: The document.

    Returns:
        Plain Python values: mappings, lists, texts, numbers, booleans, dates, None.

    Raises:
        ValueError: The text is not valid YAML, or too large. One line with the place (line and column, from 1) and the
            problem.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has more than {MOST_CHARACTERS:,} characters")
    try:
        value = YAML(typ="safe", pure=True).load(text)
        if _count_values(value, {}) > MOST_VALUES:
            raise ValueError(f"it stands for more than {MOST_VALUES:,} values; write it without aliases (&, *)")
        return value
    except DuplicateKeyError as error:
        problem = str(error.problem).partition(" with value ")[0].replace("found duplicate", "duplicate")
        raise ValueError(f"{_place(error)}{_one_line(problem)}") from error
    except MarkedYAMLError as error:
        raise ValueError(f"{_place(error)}{_one_line(error.problem or error.context)}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except Exception as error:  # the library lets Python's own errors through, as IndexError for `!!int ""`
        raise ValueError(_one_line(error).replace(' in "<unicode string>",', " at")) from error


def write_yaml(value: object) -> str:
    """Plain values as YAML that `read_yaml` reads back to equal ones; keys stay in their order."""
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Representer
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    stream = StringIO()
    writer.dump(value, stream)
    return stream.getvalue()


class _Representer(SafeRepresenter):
    """Text with line ends or control characters is quoted, because the emitter leaves some of them as they are."""

    def represent_str(self, data: str) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Representer.add_representer(str, _Representer.represent_str)


def _place(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def _count_values(value: object, known: dict[int, int]) -> int:
    """The number of values that a value stands for, aliases written out; each shared part is counted once."""
    if not isinstance(value, list | dict):
        return 1
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count_values(part, known) for part in parts)
    return known[id(value)]


def _one_line(problem: object) -> str:
    return " ".join(str(problem).split())
