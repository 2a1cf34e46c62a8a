"""The errors that evoprune reports to its user, and the form of every text that it shows.

The message of a `UserError` is one line: the place, the value and the remedy. The command line prints it and exits
with status 2; no other exception does.
"""

import re

_PASSWORD = re.compile(r"(\w[\w+.-]*://[^\s:@/?#]*):(?!\d+(?:/|$))[^\s]*@")
_NAMELESS_TOKEN = re.compile(r"(https?://)[^\s:@/?#]+@")
_QUERY = re.compile(r"(\w[\w+.-]*://[^\s?]*\?)([^\s'\"`]+)")
_PARAMETER = re.compile(r"([^=&;]*=)?[^&;]+")


def masked(text: str) -> str:
    """The text with the secrets of the URLs in it replaced by `***`.

    Secrets are the password (`sftp://me:***@host`), the user name of an http URL without a password, and every value
    in a query (`?token=***&X-Amz-Signature=***`), whatever its name.
    """
    text = _PASSWORD.sub(r"\1:***@", text)
    text = _NAMELESS_TOKEN.sub(r"\1***@", text)
    return _QUERY.sub(lambda found: found[1] + _PARAMETER.sub(r"\1***", found[2]), text)


def printable(text: str) -> str:
    """The text in one line that no terminal acts on: control characters and line ends become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """The form in which a value from outside (a URL, a path, a library's message) is shown: `masked`, `printable`."""
    return printable(masked(str(value)))


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8, which the path of a file with a name in another encoding cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


class UserError(ValueError):
    """A mistake of the user's: one line that names the place, the value and the remedy. Shown as `shown` has it."""

    def __init__(self, message: str):
        super().__init__(shown(message))


class ConfigError(UserError):
    """The config file or an override does not say a valid experiment."""


class DataError(UserError):
    """A data set is not there, does not fit, or is too small for its splits."""


class NetworkError(UserError):
    """A layer string, a network's name or its weights cannot be used."""


class SearchSpaceError(UserError):
    """A network cannot be searched, or a genome belongs to another space."""


class RunFolderError(UserError):
    """A run folder is taken, is no run folder, is damaged, or cannot be written."""


class WorkerError(UserError):
    """Workers cannot be had as `workers.count` and `workers.address` ask."""


class ExportError(UserError):
    """A network cannot be written in a format: names the part, or the package that is missing."""


class TrainingError(UserError):
    """Training left the finite numbers: names the step and the learning rate."""


class PluginError(UserError):
    """Code of the user's that a config names failed, or returned something else than it should: names the call."""


class Interrupted(Exception):
    """The user interrupted a run, and what was in flight has been written: it can be resumed."""

    def __init__(self, message: str = ""):
        super().__init__(shown(message))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened to 160 characters."""
    return (str(error).splitlines() or [""])[0][:160]


def type_and_first_line(error: BaseException) -> str:
    """An error's type and the first line of its message, shortened to 200 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
