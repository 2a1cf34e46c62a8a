"""Columns of a run's tables: their types, and the values that they may have when they are read back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evoprune.errors import RunFolderError
from evoprune.record.file_errors import damaged

_ADDED_LATER: Mapping[str, Any] = {
    "predicted_latency_ms": None,
    "failed": False,
    "divergence": None,
    "worst_class_recall": None,
    "baseline_worst_class_recall": None,
    "class_recalls": "",
    "baseline_class_recalls": "",
}
"""Columns that older runs do not have, and their value there."""

_MOST = 2.0**62


@dataclass(frozen=True)
class _Numbers:
    """Numbers of a closed range. may_lack: NaN or a missing value is allowed, too."""

    least: float = 0.0
    most: float = _MOST
    may_lack: bool = False

    def find_wrong(self, values: pd.Series) -> Any:
        """The first value that is not allowed, or None."""
        there = values.dropna()
        if len(there) < len(values) and not self.may_lack:
            return "a missing value"
        wrong = there[~there.between(self.least, self.most)]
        return wrong.iloc[0] if len(wrong) else None


@dataclass(frozen=True)
class _Texts:
    """Texts of a pattern; by default, what can be printed in one line."""

    pattern: str | None = None

    def find_wrong(self, values: pd.Series) -> Any:
        """The first value that is not allowed, or None."""
        if values.isna().any():
            return "a missing value"
        fits = values.map(str.isprintable) if self.pattern is None else values.str.fullmatch(self.pattern)
        wrong = values[~fits.astype(bool)]
        return repr(wrong.iloc[0][:60]) if len(wrong) else None


_ABOVE_ZERO = math.ulp(0.0)
_COUNT, _SIZE = _Numbers(), _Numbers(1.0)
_SHARE = _Numbers(0.0, 1.0)
_SHARE_OR_NONE = _Numbers(0.0, 1.0, may_lack=True)
_RATIO = _Numbers(_ABOVE_ZERO, 1e6)
_TIME_OR_NONE = _Numbers(0.0, 1e15, may_lack=True)
_COST = _Numbers(0.0, _MOST, may_lack=True)
_RECALLS = _Texts(r"[-0-9.e ]*")
_ALLOWED: Mapping[str, _Numbers | _Texts] = {
    "baseline_latency_ms": _TIME_OR_NONE,
    "baseline_macs": _COUNT,
    "baseline_mcr_test": _SHARE_OR_NONE,  # without a test set
    "baseline_mcr_validation": _SHARE,
    "baseline_class_recalls": _RECALLS,
    "baseline_worst_class_recall": _SHARE_OR_NONE,
    "bytes": _COUNT,
    "bytes_ratio": _RATIO,
    "class_recalls": _RECALLS,
    "divergence": _Numbers(-_MOST, _MOST, may_lack=True),
    "errors": _COUNT,
    "eval_seconds": _Numbers(0.0, 1e15),
    "generation": _COUNT,
    "images": _SIZE,
    "images_seen": _SIZE,
    "kernels": _COUNT,
    "kernels_kept": _COUNT,
    "key": _Texts(r"[0-9a-f]{1,64}"),
    "kind": _Texts(),
    "latency_ms": _TIME_OR_NONE,
    "layer": _Texts(),
    "macs": _COUNT,
    "macs_ratio": _RATIO,
    "maps": _COUNT,
    "maps_kept": _COUNT,
    "mcr": _SHARE_OR_NONE,
    "mcr_retrained": _SHARE,
    "mcr_search": _SHARE,
    "mcr_test": _SHARE_OR_NONE,
    "params": _COUNT,
    "params_ratio": _RATIO,
    "predicted_latency_ms": _TIME_OR_NONE,
    "taps": _COUNT,
    "taps_kept": _COUNT,
    "weights": _Texts(),
    "worst_class_recall": _SHARE_OR_NONE,
}
"""The values that a column may have, in all tables."""


def empty(dtypes: Mapping[str, Any]) -> pd.DataFrame:
    """A frame of these columns without rows."""
    return typed(dict.fromkeys(dtypes, ()), dtypes)


def typed(columns: Mapping[str, Sequence[Any]], dtypes: Mapping[str, Any]) -> pd.DataFrame:
    """A frame of these columns, each of its type whatever its values are."""
    return pd.DataFrame({name: pd.Series(columns[name], dtype=dtype) for name, dtype in dtypes.items()})


def checked(frame: pd.DataFrame, dtypes: Mapping[str, Any], source: Path) -> pd.DataFrame:
    """A frame as it was read, with its columns as they were written; unknown columns stay behind them.

    Args:
        frame: as `files.read_parquet` gives it.
        dtypes: the type of every column that it must have.
        source: the file or folder that errors name.

    Raises:
        RunFolderError: a column is missing.
        DamagedFileError: a column has another type, or a value that it cannot have.
    """
    for name, value in _ADDED_LATER.items():
        if name in dtypes and name not in frame:
            frame = frame.assign(**{name: value})
        elif name in dtypes and value is not None and frame[name].isna().any():  # beside older tables
            frame = frame.assign(**{name: frame[name].fillna(value)})
    missing = [name for name in dtypes if name not in frame]
    if missing:
        raise RunFolderError(f"{source} lacks the column {missing[0]}; was it written by another version?")
    for name, dtype in dtypes.items():
        if dtype == "str" and not all(isinstance(value, str) for value in frame[name].dropna()):
            raise damaged(source, f"the column {name} has the wrong type")  # pandas would make texts of anything
    try:
        frame = frame.astype(dict(dtypes))
        for name in dtypes:
            allowed = _ALLOWED.get(name, _COST if dtypes[name] == "Float64" else None)
            if allowed is not None and (wrong := allowed.find_wrong(frame[name])) is not None:
                raise damaged(source, f"the column {name} has {wrong}")
    except RunFolderError:
        raise
    except (TypeError, ValueError, OverflowError, AttributeError, NotImplementedError) as error:
        raise damaged(source, f"a column has the wrong type: {error}") from error
    return frame
