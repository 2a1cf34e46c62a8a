"""Several runs compared. Runs that differ only in their seeds are one setting, with a mean and a standard deviation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from evoprune.config.fields import Mark
from evoprune.config.marks import keys_with
from evoprune.record.runs import Run, flat_config
from evoprune.report.figures import Picture, hypervolume_of_settings, survivors_of_settings

FEW_KEYS = 3
"""The largest number of differing keys by whose values settings are named."""

MEASURES = ("mcr_test", "mcr_retrained", "macs_ratio", "params_ratio", "speedup", "hypervolume")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of a measure over the runs of a setting. None where they are undefined."""

    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class Comparison:
    """The comparison of several runs.

    Attributes:
        runs: at least one run; tables keep their order.
    """

    runs: Sequence[Run]

    @cached_property
    def settings(self) -> pd.Series:
        """The name of each run's setting: the differing keys with their values if they are few, else the run's name."""
        differences = self._differences
        distinct = list(dict.fromkeys(differences))
        if differences[0].count("\n") < FEW_KEYS:
            return pd.Series([text.replace("\n", ", ") or "all alike" for text in differences], dtype="str")
        of_runs = [run.config.name for run in self.runs]
        pairs = set(zip(differences, of_runs, strict=True))
        if len(pairs) == len(distinct) == len(set(of_runs)):
            return pd.Series(of_runs, dtype="str")
        return pd.Series([f"setting {distinct.index(text) + 1}" for text in differences], dtype="str")

    @property
    def differences(self) -> dict[str, list[str]]:
        """The differing keys of each setting as `key value`, for settings whose names do not list them."""
        pairs = zip(self.settings, self._differences, strict=True)
        return {name: text.split("\n") for name, text in pairs if text and text.replace("\n", ", ") != name}

    @cached_property
    def _differences(self) -> list[str]:
        """For each run, one line `key value` per key that differs between the runs."""
        configs = [_setting(run) for run in self.runs]
        differing = [key for key in configs[0] if len({str(config[key]) for config in configs}) > 1]
        return ["\n".join(f"{key} {config[key]}" for key in differing) for config in configs]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per run: run, seed, setting, and MEASURES of its cheapest survivor (missing without survivors)."""
        rows = [_measured(run) for run in self.runs]
        frame = pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype="Float64") for name in MEASURES})
        names = {"run": [str(run.root) for run in self.runs], "seed": [run.config.seed for run in self.runs]}
        return pd.concat([pd.DataFrame(names), self.settings.rename("setting"), frame], axis="columns")

    @cached_property
    def spreads(self) -> dict[str, dict[str, Spread]]:
        """Mean and standard deviation of each measure, by setting and by measure."""
        return {
            str(setting): {name: _spread(rows[name].dropna()) for name in MEASURES}
            for setting, rows in self.table.groupby("setting", sort=False)
        }

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """The number of runs of each setting."""
        return {str(name): int(count) for name, count in self.settings.value_counts(sort=False).items()}

    @cached_property
    def pictures(self) -> list[Picture]:
        """The pictures that compare the settings; empty if no run has survivors or generations."""
        points = pd.concat([_points(run, name) for run, name in zip(self.runs, self.settings, strict=True)])
        volumes = pd.concat([_volumes(run, name) for run, name in zip(self.runs, self.settings, strict=True)])
        drawn = [survivors_of_settings(points)] if len(points) else []
        return [*drawn, hypervolume_of_settings(volumes)] if len(volumes) else drawn


def _setting(run: Run) -> dict[str, Any]:
    left_out = keys_with(Mark.NOT_COMPARED)
    return {key: value for key, value in flat_config(run.config).items() if key not in left_out}


def _measured(run: Run) -> dict[str, Any]:
    volumes = run.generations["hypervolume"]
    last = {"hypervolume": volumes.iloc[-1] if len(volumes) else None}
    if run.survivors.empty:
        return last
    cheapest = run.survivors.iloc[0]
    speedup = cheapest["baseline_latency_ms"] / cheapest["latency_ms"]
    return {name: cheapest[name] for name in MEASURES if name in cheapest} | {"speedup": speedup} | last


def _spread(values: pd.Series) -> Spread:
    if values.empty:
        return Spread(None, None)
    return Spread(float(values.mean()), float(values.std()) if len(values) > 1 else None)


def _points(run: Run, setting: str) -> pd.DataFrame:
    tested = run.survivors["mcr_test"].where(run.survivors["mcr_test"].notna(), run.survivors["mcr_retrained"])
    frame = run.survivors[["key", "macs_ratio"]]
    return frame.assign(mcr=tested, run=str(run.root), setting=setting)


def _volumes(run: Run, setting: str) -> pd.DataFrame:
    return run.generations[["generation", "hypervolume"]].assign(run=str(run.root), setting=setting)
