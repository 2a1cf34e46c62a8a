"""YAML as people mean it: safe tags only, no key twice, and `1e-3` is a number."""

import re

import yaml


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, made to refuse a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key_node.value} stands here a second time",
                    problem_mark=key_node.start_mark,
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 wants a dot and a signed exponent in a float and reads 1e-3 as text; YAML 1.2 does not.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


MOST_VALUES = 100_000
"""What a few aliases of aliases can stand for has no end; no config says as much as this."""


def read_yaml(text: str) -> object:
    """The plain value that a YAML text says.

    Raises ValueError with one line that names the place (line and column, from 1) and the problem.
    """
    try:
        value = yaml.load(text, Loader=_StrictLoader)
        if _values(value, {}) > MOST_VALUES:
            raise ValueError(f"it stands for more than {MOST_VALUES} values; write it without aliases (&, *)")
        return value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{_one_line(error.problem or error.context)}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(_one_line(error)) from error


def _values(value: object, known: dict[int, int]) -> int:
    """How many values it is written out, aliases included; each of those is counted once and multiplied."""
    if not isinstance(value, list | dict):
        return 1
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(value)]


def _one_line(problem: object) -> str:
    return " ".join(str(problem).split())
