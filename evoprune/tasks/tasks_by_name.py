"""Tasks by name. Importing this file registers the built-in ones."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from evoprune.errors import ConfigError, PluginError
from evoprune.plugins.guard import plugin_call
from evoprune.plugins.kinds import TASKS
from evoprune.tasks.binary import Binary
from evoprune.tasks.classification import Classification
from evoprune.tasks.like_teacher import LikeTeacher
from evoprune.tasks.multilabel import Multilabel
from evoprune.tasks.regression import Regression
from evoprune.tasks.segmentation import Segmentation
from evoprune.tasks.task import Task

__all__ = ["TASKS", "Binary", "Classification", "LikeTeacher", "Multilabel", "Regression", "Segmentation", "make_task"]

Option = bool | int | float | str | None

_MOST_CHARACTERS = 1000


def make_task(reference: str, options: Mapping[str, Option] | None = None) -> Task:
    """The task that a config names.

    Args:
        reference: a registered name, or `module:attribute` of a class or another callable that makes a task.
        options: its keyword arguments.

    Raises:
        ConfigError: there is no such task, or it has no such option.
        PluginError: it cannot be made.
    """
    make, options = TASKS.find(reference), dict(options or {})
    if not callable(make):
        raise PluginError(f"task: {reference} must be a subclass of ep.Task, not a {type(make).__name__}")
    allowed = _options_of(make)
    for name in options if allowed is not None else ():
        if name not in (allowed or ()):
            raise ConfigError(
                f"task_options: the task {reference} has no option {name!r}; "
                f"it has {', '.join(allowed or ()) or 'none: leave task_options out'}"
            )
    with plugin_call("task", reference, "its constructor"):
        task = make(**options)
    if not isinstance(task, Task):
        raise PluginError(f"task: {reference} must make an ep.Task, not a {type(task).__name__}")
    return task


def described(task: Task | type[Task]) -> tuple[str, dict[str, Option]]:
    """A task's reference and options, as a config has them; values that a config cannot have become texts.

    Raises:
        ConfigError: other processes could not import its class.
    """
    if isinstance(task, type):
        return _reference(task), {}
    values = {field.name: getattr(task, field.name) for field in fields(task)} if is_dataclass(task) else vars(task)
    return _reference(type(task)), {name: _plain(value) for name, value in values.items() if not name.startswith("_")}


def _reference(kind: type[Task]) -> str:
    """The registered name of a built-in task, else `module:class`."""
    return next((name for name in TASKS.names if TASKS.find(name) is kind), None) or TASKS.reference(kind)


def _plain(value: object) -> Option:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text[:_MOST_CHARACTERS]


def _options_of(make: Callable[..., Any]) -> tuple[str, ...] | None:
    """The names of a callable's keyword arguments, private ones left out; None if it takes any, or cannot tell."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return tuple(parameter.name for parameter in parameters if not parameter.name.startswith("_"))
