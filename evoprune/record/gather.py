"""Many runs as one table, of survivors or of candidates, with the config of each run as columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pandas as pd
from pydantic import BaseModel

from evoprune.config.schema import Config
from evoprune.errors import RunFolderError
from evoprune.record.columns import empty
from evoprune.record.folder import RunFolder
from evoprune.record.runs import Run, flat_config, load_run
from evoprune.record.tables import CANDIDATE_DTYPES, read_candidates, survivors_frame


def load_runs(path: str | Path) -> pd.DataFrame:
    """The survivors of all runs at or below a folder, at any depth.

    Args:
        path: the folder.

    Returns:
        One row for each survivor, in the order of the runs' paths: `run` (the path relative to the folder), the columns
        of survivors, then every config key as a column (`search.tolerance`), lists joined by commas. A run without
        survivors has no rows; earlier rounds are not runs of their own.

    Raises:
        RunFolderError: there is no such folder, or a run in it is damaged.

    Example:
        >>> runs = ep.load_runs("results")
        >>> runs.groupby("search.algorithm")["mcr_test"].min()
    """
    top = Path(path)
    runs = runs_below(top)
    frame = _beside_config(top, runs, [run.survivors for run in runs], survivors_frame([]))
    words = dict.fromkeys(_words(frame, ["run", *_config_dtypes(Config)]), "str")
    return frame.astype(words)


def load_candidates(path: str | Path, genomes: bool = False) -> pd.DataFrame:
    """The candidates of all runs at or below a folder, at any depth; of a run with rounds, those of the last one.

    Args:
        path: the folder.
        genomes: whether to read the genomes, which take by far the most memory.

    Returns:
        One row for each candidate and generation: `run`, the columns of candidates, then every config key as a column.
        `run` and keys whose values are texts are categories.

    Raises:
        RunFolderError: as `load_runs`.

    Example:
        >>> candidates = ep.load_candidates("results")
        >>> candidates.groupby("run")["feasible"].mean()
    """
    top = Path(path)
    runs = runs_below(top)
    columns = [name for name in CANDIDATE_DTYPES if genomes or name != "genome"]
    frames = [read_candidates(RunFolder(run.root), columns) for run in runs]
    return _beside_config(top, runs, frames, empty({name: CANDIDATE_DTYPES[name] for name in columns}))


def runs_at(paths: Sequence[Path]) -> list[Run]:
    """The runs at or below each of some folders, in order, each once. Raises RunFolderError if a folder has none."""
    runs: dict[Path, Run] = {}
    for path in paths:
        found = [load_run(path)] if RunFolder(path).holds_run() else runs_below(path)
        if not found:
            raise RunFolderError(f"{path} holds no run, nor does a folder below it; give one that `evoprune run` made")
        runs |= {run.root.resolve(): run for run in found}
    return list(runs.values())


def runs_below(path: Path) -> list[Run]:
    """All runs at or below a folder, by path, without earlier rounds. Raises RunFolderError if there is no folder."""
    if not path.is_dir():
        raise RunFolderError(f"{path} is no folder; give one with run folders below it")
    roots = sorted(config.parent for config in path.rglob(RunFolder(path).config.name))
    folders = [folder for root in roots if (folder := RunFolder(root)).holds_run() and not folder.round_of()]
    return [load_run(folder.root) for folder in folders]


def _beside_config(
    top: Path, runs: Sequence[Run], frames: Sequence[pd.DataFrame], nothing: pd.DataFrame
) -> pd.DataFrame:
    """The frames of runs in one, each row with the path of its run before it and the config of its run after it.

    Args:
        top: the folder that paths are relative to.
        runs: the runs.
        frames: a frame for each run, all of the same columns.
        nothing: a frame of these columns without rows.
    """
    rows = pd.concat([nothing, *(frame for frame in frames if len(frame))], ignore_index=True)
    settings = [{"run": run.root.relative_to(top).as_posix(), **flat_config(run.config)} for run in runs]
    by_run = pd.DataFrame(
        {
            name: pd.Series([row[name] for row in settings], dtype=dtype)
            for name, dtype in {"run": "str", **_config_dtypes(Config)}.items()
        }
    )
    # repeating the codes of a category is fast and small, however long its texts are
    by_run = by_run.astype(dict.fromkeys(_words(by_run, [str(name) for name in by_run]), "category"))
    by_row = by_run.loc[by_run.index.repeat([len(frame) for frame in frames])].reset_index(drop=True)
    return pd.concat([by_row[["run"]], rows, by_row.drop(columns="run")], axis="columns")


def _words(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The named columns that hold texts, plain or as categories."""
    kinds = (pd.CategoricalDtype, pd.StringDtype)
    return [name for name in names if isinstance(frame[name].dtype, kinds) or frame[name].dtype == object]


def _config_dtypes(section: type[BaseModel], prefix: str = "") -> Mapping[str, str]:
    """The column type of every dotted key, from the schema: the same for any number of runs."""
    dtypes: dict[str, str] = {}
    for key, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            dtypes |= _config_dtypes(field.annotation, f"{prefix}{key}.")
        else:
            dtypes[f"{prefix}{key}"] = _column_dtype(field.annotation)
    return dtypes


def _column_dtype(annotation: Any) -> str:
    if get_origin(annotation) in (Union, UnionType):
        possible = [option for option in get_args(annotation) if option is not type(None)]
        # a number or a text, as workers.count: texts hold both
        return _column_dtype(possible[0]) if len(possible) == 1 else "str"
    return {bool: "boolean", int: "Int64", float: "Float64"}.get(annotation, "str")
