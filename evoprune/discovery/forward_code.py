"""The names in the code of a module's forward and of everything of its own that it calls."""

import inspect
from collections.abc import Iterator
from contextlib import suppress
from types import CodeType
from typing import Any

from torch import nn

_BY_ANY_NAME = frozenset(
    {"getattr", "children", "named_children", "modules", "named_modules", "_modules", "get_submodule", "__getattr__"}
    | {"parameters", "named_parameters", "_parameters", "get_parameter", "state_dict", "vars", "__dict__"}
)
"""Names by which code reaches attributes that it does not name."""


def may_name(module: nn.Module, attribute: str) -> bool:
    """Whether the forward of a module may reach one of its attributes, as far as its code shows."""
    found, pending = set[str](), {"forward"}
    while pending:
        name = pending.pop()
        found.add(name)
        codes = [*_codes_of(inspect.getattr_static(module, name, None))]
        if name == "forward" and not codes:
            return True
        pending |= {used for code in codes for used in _names_in(code)} - found
    return attribute in found or bool(found & _BY_ANY_NAME)


def _codes_of(value: Any) -> Iterator[CodeType]:
    """The code of a function, method or property, and of functions in its closure (as in decorators)."""
    function = getattr(value, "fget", None) or getattr(value, "__func__", value)
    function = inspect.unwrap(function) if inspect.isfunction(function) else function
    if inspect.isfunction(function):
        yield function.__code__
        yield from (inner.__code__ for inner in _closure(function) if inspect.isfunction(inner))


def _closure(function: Any) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # of a cell that is empty as yet
            yield cell.cell_contents


def _names_in(code: CodeType) -> Iterator[str]:
    """Names in code, strings that may be names, and those of functions defined in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
        elif isinstance(constant, str) and constant.isidentifier():
            yield constant
