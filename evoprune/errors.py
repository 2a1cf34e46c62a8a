"""The mistakes that evoprune names to its user.

A `UserError`'s message is one line: the place, the value and the remedy. The command line prints it
and leaves with exit status 2; nothing else does.
"""


class UserError(ValueError):
    """A mistake of the user's: one line that names the place, the value and the remedy."""


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


class Interrupted(Exception):
    """The user interrupted a run, and what was in flight has been written: it can be resumed."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened to 160 characters."""
    return (str(error).splitlines() or [""])[0][:160]


def type_and_first_line(error: BaseException) -> str:
    """An error's type and the first line of its message, shortened to 200 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
