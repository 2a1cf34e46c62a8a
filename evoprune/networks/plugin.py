"""Callables that the user names in the config as `module:callable`."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evoprune.errors import UserError


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """Inside it, modules that lie in the current directory can be imported, as with `python -m`."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    # A module written a moment ago may be missing from the importer's listing of its folder.
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def import_callable(reference: str, key: str, error_class: type[UserError]) -> Callable[..., Any]:
    """The callable that `module:callable` names; the callable may be dotted (`module:Class.method`).

    key: the config key it came from, for the message.
    Raises error_class where the module cannot be imported or has no such callable.
    """
    module_name, _, path = reference.partition(":")
    if not module_name or not path:
        raise error_class(f"{key}: {reference!r} is no module:callable; write as in my_package.my_module:make")
    try:
        with working_directory_importable():
            target: Any = importlib.import_module(module_name)
    except Exception as error:
        raise error_class(
            f"{key}: cannot import module {module_name!r} of {reference!r} ({describe(error)}); "
            "it must be installed or lie in the current directory"
        ) from error
    for name in path.split("."):
        if not hasattr(target, name):
            raise error_class(f"{key}: {reference!r}: {module_name!r} has no {path!r}; name a callable that it has")
        target = getattr(target, name)
    if not callable(target):
        raise error_class(f"{key}: {reference!r} is a {type(target).__name__}; name something that can be called")
    return target


def describe(error: BaseException) -> str:
    """An exception on one short line: its type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
