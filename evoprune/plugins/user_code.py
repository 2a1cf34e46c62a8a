"""Attributes of modules that the user names in the config as `module:attribute`, and how their errors are reported."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evoprune.errors import UserError, type_and_first_line

_MISSING = object()


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """Inside it, modules in the current directory can be imported, as with `python -m`."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    # A module written a moment ago may be missing from the importer's listing of its folder.
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if folder in sys.path:  # the user's code may have changed the path
            sys.path.remove(folder)


@contextmanager
def user_code(what: str, remedy: str, error_class: type[UserError]) -> Iterator[None]:
    """Inside it, code of the user's runs: whatever it raises, `SystemExit` included, becomes an error of one line.

    Args:
        what: the config key, the code and the action that fails, for the message.
        remedy: what the user can do, for the message.
        error_class: raised as "<what> (<type and message>); <remedy>".

    Raises:
        KeyboardInterrupt: as it is.
    """
    try:
        with working_directory_importable():
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise error_class(f"{what} ({type_and_first_line(error)}); {remedy}") from error


def import_attribute(reference: str, key: str, error_class: type[UserError]) -> Any:
    """Imports what `module:attribute` names.

    Args:
        reference: the attribute may be dotted (`module:Class.method`).
        key: the config key that names it, for the message.
        error_class: the error to raise.

    Raises:
        error_class: if the module cannot be imported or has no such attribute.
    """
    module_name, _, path = reference.partition(":")
    if not module_name or not path:
        raise error_class(f"{key} must be module:attribute, as in my_package.my_module:make, not {reference!r}")
    with user_code(
        f"{key}: cannot import module {module_name!r} of {reference!r}",
        "it must be installed or lie in the current directory",
        error_class,
    ):
        target: Any = importlib.import_module(module_name)
        for name in path.split("."):
            target = getattr(target, name, _MISSING)
    if target is _MISSING:
        raise error_class(f"{key}: {reference!r}: {module_name!r} has no {path!r}; name an attribute that it has")
    return target


def import_callable(reference: str, key: str, error_class: type[UserError]) -> Callable[..., Any]:
    """Imports the callable that `module:attribute` names; arguments and errors as of `import_attribute`."""
    target = import_attribute(reference, key, error_class)
    if not callable(target):
        raise error_class(f"{key}: {reference!r} must be a callable, not a {type(target).__name__}; name another")
    return target
