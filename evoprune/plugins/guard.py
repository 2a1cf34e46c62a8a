"""Calls of plug-ins: an exception of the user's code names the plug-in and the method."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from evoprune.errors import Interrupted, PluginError, TrainingError, WorkerError, type_and_first_line
from evoprune.plugins.user_code import working_directory_importable

Plugin = TypeVar("Plugin")

Check = Callable[..., str | None]
"""(result, *arguments of the call) -> how the message goes on after the call's name; None for a good result."""

Checks = tuple[tuple[str, Check], ...]
"""Names of methods, each with the check of its results."""

REMEDY = "correct it; a run that has begun goes on with `evoprune resume`"


@contextmanager
def plugin_call(key: str, reference: str, call: str) -> Iterator[None]:
    """Inside it, a plug-in runs. An exception of a built-in one passes as it is, because it is a fault of evoprune.

    Args:
        key: the config key that names the plug-in.
        reference: its value.
        call: the method that is called, for the message.

    Raises:
        PluginError: the user's code raised an exception, `SystemExit` included. Errors of workers and of training that
            passed through it, and interruptions, stay as they are.
    """
    if not is_own(reference):
        yield
        return
    try:
        with working_directory_importable():
            yield
    except (PluginError, WorkerError, TrainingError, Interrupted, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise plugin_error(key, reference, call, f"failed ({type_and_first_line(error)})") from error


def plugin_error(key: str, reference: str, call: str, problem: str) -> PluginError:
    """The error for a call of a plug-in that went wrong, in one line; arguments as of `plugin_call`."""
    return PluginError(f"{key}: {reference}: {call} {problem}; {REMEDY}")


def is_own(reference: str) -> bool:
    """Whether a plug-in is the user's own, named as `module:attribute`."""
    return ":" in reference


class _Guarded:
    """A stand-in for a plug-in whose methods run within `plugin_call`, and whose results are checked."""

    def __init__(self, plugin: object, key: str, reference: str, checks: Checks):
        self._plugin, self._key, self._reference, self._checks = plugin, key, reference, dict(checks)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Guarded, (self._plugin, self._key, self._reference, tuple(self._checks.items()))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks for methods that few classes have
            raise AttributeError(name)
        with plugin_call(self._key, self._reference, name):
            value = getattr(self._plugin, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            with plugin_call(self._key, self._reference, name):
                result = value(*args, **kwargs)
            if name in self._checks and (problem := self._checks[name](result, *args, **kwargs)):
                raise plugin_error(self._key, self._reference, name, problem)
            return result

        return call


def guarded(plugin: Plugin, key: str, reference: str, checks: Checks) -> Plugin:
    """The plug-in; if it is the user's own, every method runs within `plugin_call`.

    Args:
        plugin: an object of a built-in or of the user's class.
        key, reference: as of `plugin_call`.
        checks: of the results of the user's methods.
    """
    return cast(Plugin, _Guarded(plugin, key, reference, checks)) if is_own(reference) else plugin
