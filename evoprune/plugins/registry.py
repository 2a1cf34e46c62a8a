"""A registry: the plug-ins of one kind, by name or as `module:attribute`."""

import difflib
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from evoprune.errors import UserError
from evoprune.plugins.user_code import import_attribute

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_OWN_PACKAGE = __name__.partition(".")[0]

Plugin = TypeVar("Plugin")


class Description(NamedTuple):
    """A plug-in in a list: its name, and the first line of its docstring."""

    name: str
    summary: str


class Registry:
    """The plug-ins of one kind.

    Those of evoprune and of the user register in the same way: each in a file of its own, by the decorator `register`,
    when the file is imported. A config names a plug-in of evoprune by its name, and one of the user's as
    `module:attribute`, so that any process can import it; then it need not be registered.
    """

    def __init__(self, kind: str, plural: str, key: str, error_class: type[UserError]):
        """Starts empty.

        Args:
            kind: for messages, as in `criterion`.
            plural: for `evoprune list`, as in `criteria`.
            key: the config key that names one.
            error_class: raised for names that cannot be found.
        """
        self.kind = kind
        self.plural = plural
        self.key = key
        self._error_class = error_class
        self._entries: dict[str, Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names, in alphabetical order: the order of registration is that of imports."""
        return tuple(sorted(self._entries))

    def register(self, name: str) -> Callable[[Plugin], Plugin]:
        """A decorator that registers a function or class under a name, and returns it as it is.

        Raises:
            UserError: the name is not one, or another plug-in has it.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise self._error_class(
                f"the name of a {self.kind} must be lowercase letters, digits, '_' and '-', with a letter first, "
                f"not {name!r}"
            )

        def keep(plugin: Plugin) -> Plugin:
            known = self._entries.setdefault(name, plugin)
            if _identity(known) != _identity(plugin):  # a notebook's cell may be run again
                raise self._error_class(
                    f"the {self.kind} {name!r} is registered already, by {_place(known)}; choose another name"
                )
            self._entries[name] = plugin
            return plugin

        return keep

    def find(self, reference: str) -> Any:
        """The plug-in of a registered name, or the one that `module:attribute` names.

        Raises:
            UserError: there is none; names the nearest, and how they are listed.
        """
        if reference in self._entries:
            return self._entries[reference]
        if ":" in reference:
            return import_attribute(reference, self.key, self._error_class)
        raise self._error_class(f"{self.key}: there is no {self.kind} {reference!r}; {self.hint(reference)}")

    def hint(self, name: str) -> str:
        """The remedy for an unknown name: the nearest one, the command that lists all, or one's own."""
        nearest = difflib.get_close_matches(name, self._entries, n=1, cutoff=0.4)
        return (
            f"the nearest is {nearest[0]}; " if nearest else ""
        ) + f"`evoprune list {self.plural}` lists them, and module:attribute names one of your own"

    def reference(self, plugin: str | object) -> str:
        """The name of a plug-in in a config, by which every process finds it.

        Args:
            plugin: a registered name, `module:attribute`, or a function or class at the top level of a module.

        Returns:
            The name of a plug-in of evoprune, or `module:attribute`. A name that is not registered stays as it is.

        Raises:
            UserError: the object cannot be imported by its name.
        """
        if isinstance(plugin, str):
            known = self._entries.get(plugin)
            if known is None or _module(known).partition(".")[0] == _OWN_PACKAGE:
                return plugin
            plugin = known
        reference = _place(plugin)
        module, _, path = reference.partition(":")
        target: Any = sys.modules.get(module)
        for name in path.split("."):
            target = getattr(target, name, None)
        if target is not plugin:
            raise self._error_class(
                f"a {self.kind} must be a function or class at the top level of a module, which other processes can "
                f"import, not {reference}; move it there"
            )
        return reference

    def describe(self) -> list[Description]:
        """Every registered plug-in, in alphabetical order."""
        return [
            Description(name, (inspect.getdoc(plugin) or "").partition("\n")[0])
            for name, plugin in ((name, self._entries[name]) for name in self.names)
        ]


def _module(plugin: object) -> str:
    return str(getattr(plugin, "__module__", type(plugin).__module__))


def _place(plugin: object) -> str:
    """module:qualified name."""
    return f"{_module(plugin)}:{getattr(plugin, '__qualname__', type(plugin).__qualname__)}"


def _identity(plugin: object) -> object:
    """A value that is equal for two definitions of one plug-in by the same module."""
    return _place(plugin) if hasattr(plugin, "__qualname__") else plugin
