"""Many runs as one table, of survivors or of candidates, with the status and the config of each run as columns."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pandas as pd

from evoprune.config.complaints import known_keys, section_of
from evoprune.config.schema import Config
from evoprune.errors import RunFolderError, UserError, printable
from evoprune.record.columns import empty
from evoprune.record.folder import RunFolder
from evoprune.record.places import local_path
from evoprune.record.run_status import DAMAGED, status_of
from evoprune.record.runs import Run, flat_config, load_run
from evoprune.record.tables import CANDIDATE_DTYPES, SURVIVOR_DTYPES, read_candidates

_NULLABLE = {"int64": "Int64", "bool": "boolean"}
_NUMBERS = {int: "Int64", float: "Float64"}

_log = logging.getLogger(__name__)


def load_runs(path: str | Path) -> pd.DataFrame:
    """The survivors of all runs at or below a folder, at any depth.

    Args:
        path: the folder.

    Returns:
        One row for each survivor, in the order of the runs' paths: `run` (the path relative to the folder), `status`
        (`finished`, `stopped in generation 7`, `damaged`, ...: `run_status.status_of`), the columns of survivors, then
        every config key as a column (`search.tolerance`). Keys whose values are numbers are numbers, lists are texts
        joined by commas. A run without survivors, because it is not finished, found none or is damaged, has one row in
        which these columns are missing; `dropna(subset="key")` leaves it out. The reason why a run is damaged, or
        cannot be read, is logged as a warning. Earlier rounds are not runs of their own.

    Raises:
        RunFolderError: there is no such folder.

    Example:
        >>> runs = ep.load_runs("results")
        >>> runs.groupby("search.algorithm")["mcr_test"].min()
    """
    dtypes = {name: _NULLABLE.get(str(dtype), dtype) for name, dtype in SURVIVOR_DTYPES.items()}
    none, no_survivor = empty(dtypes), empty(dtypes).reindex([0]).astype(dtypes)
    found = [_read(place, lambda run: run.survivors, keep_damaged=True) for place in _places_below(path)]
    rows = [no_survivor if run.rows is None or run.rows.empty else run.rows.astype(dtypes) for run in found if run]
    frame = _beside_config([run for run in found if run], rows, none)
    return frame.astype({name: _dtype_of_categories(frame[name]) for name in _categories(frame)})


def load_candidates(path: str | Path, genomes: bool = False) -> pd.DataFrame:
    """The candidates of all runs at or below a folder, at any depth; of a run with rounds, those of the last one.

    Args:
        path: the folder.
        genomes: whether to read the genomes, which take by far the most memory.

    Returns:
        One row for each candidate and generation: `run` and `status` as in `load_runs`, the columns of candidates, then
        every config key as a column. `run`, `status` and keys whose values are texts are categories. A run that cannot
        be read has no rows; the reason is logged as a warning.

    Raises:
        RunFolderError: there is no such folder.

    Example:
        >>> candidates = ep.load_candidates("results")
        >>> candidates.groupby("run")["feasible"].mean()
    """
    dtypes = {name: dtype for name, dtype in CANDIDATE_DTYPES.items() if genomes or name != "genome"}

    def read(run: Run) -> pd.DataFrame:
        return read_candidates(RunFolder(run.root), [*dtypes])

    found = [run for place in _places_below(path) if (run := _read(place, read, keep_damaged=False))]
    return _beside_config(found, [run.rows for run in found if run.rows is not None], empty(dtypes))


def runs_at(paths: Sequence[Path]) -> list[Run]:
    """The runs at or below each of some folders, in order, each once.

    Raises:
        RunFolderError: a folder has none, or is itself a run that cannot be read.
    """
    runs: dict[Path, Run] = {}
    for path in paths:
        found = [load_run(path)] if RunFolder(path).holds_run() else runs_below(path)
        if not found:
            raise RunFolderError(f"{path} holds no run, nor does a folder below it; give one that `evoprune run` made")
        runs |= {run.root.resolve(): run for run in found}
    return list(runs.values())


def runs_below(path: str | Path) -> list[Run]:
    """All runs at or below a folder, by path, without earlier rounds.

    A run whose folder or config cannot be read is left out; the reason is logged as a warning.

    Raises:
        RunFolderError: there is no such folder.
    """
    found = [_read(place, lambda run: None, keep_damaged=False) for place in _places_below(path)]
    return [Run(run.root) for run in found if run]


@dataclass(frozen=True)
class _Place:
    """A folder that holds a run, and its path below the folder that is searched, as it is shown."""

    root: Path
    name: str


@dataclass(frozen=True, eq=False)
class _Found:
    """A run's part of a table. config: by dotted key; empty if it cannot be read. rows: None likewise."""

    root: Path
    name: str
    status: str
    config: Mapping[str, Any]
    rows: pd.DataFrame | None


def _places_below(path: str | Path) -> list[_Place]:
    top = local_path(path)
    if not top.is_dir():
        raise RunFolderError(f"{top} is no folder; give one with run folders below it")
    places = []
    for config in sorted(top.rglob(RunFolder(top).config.name)):
        folder = RunFolder(config.parent)
        try:
            is_run = folder.holds_run() and not folder.round_of()
        except OSError as error:
            _log.warning("%s cannot be read, and is left out: %s", folder.root, error.strerror)
            continue
        if is_run:
            places.append(_Place(folder.root, printable(folder.root.relative_to(top).as_posix())))
    return places


def _read(place: _Place, read: Callable[[Run], pd.DataFrame | None], *, keep_damaged: bool) -> _Found | None:
    """A run and its rows. Logs a warning if it cannot be read; it is then `damaged`, or None if none are to be kept."""
    status, config, rows = DAMAGED, {}, None
    try:
        run = load_run(place.root)
        config = flat_config(run.config)
        rows = read(run)
        status = status_of(RunFolder(place.root), run.config)
    except (UserError, OSError) as error:
        _log.warning("the run %s cannot be read, and %s: %s", place.name, _CONSEQUENCE[keep_damaged], error)
        if not keep_damaged:
            return None
    return _Found(place.root, place.name, status, config, rows)


_CONSEQUENCE = {True: "is listed as damaged", False: "is left out"}


def _beside_config(runs: Sequence[_Found], frames: Sequence[pd.DataFrame], nothing: pd.DataFrame) -> pd.DataFrame:
    """The frames of runs in one, each row with its run and status before it and the config of its run after it.

    Args:
        runs: the runs.
        frames: a frame for each run, all of the same columns.
        nothing: a frame of these columns without rows.
    """
    rows = pd.concat([nothing, *(frame for frame in frames if len(frame))], ignore_index=True)
    columns = {"run": _texts([run.name for run in runs]), "status": _texts([run.status for run in runs])}
    for key, field in known_keys(Config).items():
        if section_of(field) is None:
            columns[key] = _column([run.config.get(key) for run in runs], field.annotation, field.default)
    by_run = pd.DataFrame(columns)
    # repeating the codes of a category is fast and small, however long its texts are
    words = [name for name in by_run if isinstance(by_run[name].dtype, pd.StringDtype) or by_run[name].dtype == object]
    by_run = by_run.astype(dict.fromkeys(words, "category"))
    by_row = by_run.loc[by_run.index.repeat([len(frame) for frame in frames])].reset_index(drop=True)
    before = ["run", "status"]
    return pd.concat([by_row[before], rows, by_row.drop(columns=before)], axis="columns")


def _categories(frame: pd.DataFrame) -> list[str]:
    return [str(name) for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)]


def _dtype_of_categories(column: pd.Series) -> Any:
    return "str" if isinstance(column.cat.categories.dtype, pd.StringDtype) else column.cat.categories.dtype


def _texts(values: Sequence[Any]) -> pd.Series:
    return pd.Series(values, dtype="str")


def _column(values: Sequence[Any], annotation: Any, default: Any) -> pd.Series:
    """The values of a config key, in a type that is the same for any number of runs.

    A key that may be a number or a text (`search.target_cost`, `workers.count`) has a column of numbers or of texts if
    all values are, and else of objects.

    Args:
        values: one for each run; None if it is null or cannot be read.
        annotation: the key's type in the schema.
        default: decides on the column's type if there are no values.
    """
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    plain = [option for option in map(_without_rules, options) if option is not type(None)]
    if plain == [bool]:
        return pd.Series(values, dtype="boolean")
    number = next((_NUMBERS[option] for option in plain if option in _NUMBERS), None)
    if number is None:
        return _texts(values)
    are_texts = [isinstance(value, str | tuple) for value in values or (default,) if value is not None]
    if any(are_texts):
        return _texts(values) if all(are_texts) else pd.Series(values, dtype=object)
    return pd.Series(values, dtype=number)


def _without_rules(option: Any) -> Any:
    """float for Annotated[float, ...]."""
    return option.__origin__ if hasattr(option, "__metadata__") else option
