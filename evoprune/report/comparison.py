"""Runs side by side: those that differ in nothing but the seed are one setting, with a mean and a spread."""

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

MEASURES = ("mcr_test", "mcr_retrained", "macs_ratio", "params_ratio", "speedup", "hypervolume")


@dataclass(frozen=True)
class Spread:
    """A measure over the runs of a setting that have it. deviation: the sample's, None for one run."""

    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class Comparison:
    """Several runs, in the order given."""

    runs: Sequence[Run]

    @cached_property
    def settings(self) -> pd.Series:
        """The name of each run's setting: by the keys that differ, where those are few; else the runs' own name."""
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
        """Setting -> `key value` of every key that differs between the settings, where its name does not say so."""
        pairs = zip(self.settings, self._differences, strict=True)
        return {name: text.split("\n") for name, text in pairs if text and text.replace("\n", ", ") != name}

    @cached_property
    def _differences(self) -> list[str]:
        """Of each run, a line for every key that differs between the runs."""
        configs = [_setting(run) for run in self.runs]
        differing = [key for key in configs[0] if len({str(config[key]) for config in configs}) > 1]
        return ["\n".join(f"{key} {config[key]}" for key in differing) for config in configs]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a run: run, seed, setting, and of its cheapest survivor the MEASURES; missing where it has none."""
        rows = [_measured(run) for run in self.runs]
        frame = pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype="Float64") for name in MEASURES})
        names = {"run": [str(run.root) for run in self.runs], "seed": [run.config.seed for run in self.runs]}
        return pd.concat([pd.DataFrame(names), self.settings.rename("setting"), frame], axis="columns")

    @cached_property
    def spreads(self) -> dict[str, dict[str, Spread]]:
        """RoundContext -> measure -> mean and spread over its runs."""
        return {
            str(setting): {name: _spread(rows[name].dropna()) for name in MEASURES}
            for setting, rows in self.table.groupby("setting", sort=False)
        }

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """How many runs each setting has."""
        return {str(name): int(count) for name, count in self.settings.value_counts(sort=False).items()}

    @cached_property
    def pictures(self) -> list[Picture]:
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
