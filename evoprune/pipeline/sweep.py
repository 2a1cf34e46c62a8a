"""Sweeps: every combination of some keys' values is a run of its own, all on the same workers."""

import itertools
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evoprune.config.fields import Mark
from evoprune.config.loading import load_config, parse_override
from evoprune.config.marks import keys_with
from evoprune.config.schema import Config
from evoprune.errors import ConfigError, DataError, NetworkError, SearchSpaceError, TrainingError
from evoprune.pipeline.run import run_or_resume
from evoprune.progress import Progress
from evoprune.record.csv_tables import write_csv
from evoprune.record.folder import RunFolder
from evoprune.record.places import is_remote, local_path
from evoprune.record.runs import Run
from evoprune.training.devices import resolve_device
from evoprune.workers.workers import open_worker_pool

logger = logging.getLogger(__name__)

TABLE = "sweep.csv"
MOST_RUNS = 10_000
_MEASURED = ("key", "mcr_retrained", "mcr_test", "baseline_mcr_test", "macs_ratio", "params_ratio", "latency_ms")

Row = dict[str, Any]


def parse_choices(texts: Sequence[str]) -> dict[str, list[object]]:
    """Parses `["seed=0,1,2"]` to {"seed": [0, 1, 2]}; the values are YAML, as in a list.

    Raises:
        ConfigError: if a text is no KEY=VALUE,VALUE,..., or a key comes twice.
    """
    choices: dict[str, list[object]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values.strip():
            raise ConfigError(f"--set must be KEY=VALUE,VALUE,... in a sweep, as seed=0,1,2, not {text}")
        key, listed = parse_override(f"{key}=[{values}]")
        if key in choices:
            raise ConfigError(f"--set: {key} is there twice; write all its values in one, as {key}=0,1,2")
        choices[key] = listed if isinstance(listed, list) else [listed]
    return choices


def configs_of(config: Path, choices: Mapping[str, Sequence[object]]) -> dict[str, tuple[Row, Config]]:
    """All combinations of the choices.

    Returns:
        By the name of its run folder: the values of the keys that vary, and the validated config.

    Raises:
        ConfigError: if a combination is no valid config, there are too many, or they cannot share their workers.
    """
    for key, values in choices.items():
        if len(values) > 1 and key in keys_with(Mark.SAME_IN_SWEEP):
            raise ConfigError(f"--set: {key} must have one value in a sweep, for all runs have the same workers")
    if math.prod(len(values) for values in choices.values()) > MOST_RUNS:
        raise ConfigError(f"--set: a sweep has {MOST_RUNS} runs at most; take fewer values")
    varying = [key for key, values in choices.items() if len(values) > 1]
    found: dict[str, tuple[Row, Config]] = {}
    for values in itertools.product(*choices.values()):
        changes = dict(zip(choices, values, strict=True))
        varied = {key: changes[key] for key in varying}
        name = folder_name(varied)
        if name in found:
            raise ConfigError(f"--set: two combinations are both {name}; write each value once")
        found[name] = varied, load_config(config, changes)
    return found


def folder_name(varied: Mapping[str, object]) -> str:
    """A name such as `seed=0,search.tolerance=0.01`; characters that a folder's name cannot have become dashes."""
    words = ",".join(f"{key}={value}" for key, value in varied.items()) or "run"
    return re.sub(r"[^\w.,=+-]+", "-", words)[:200]


def sweep(
    config: Path, choices: Mapping[str, Sequence[object]], out: str | Path | None, progress: Progress
) -> tuple[list[Row], Path]:
    """Runs every combination, or resumes its run, all on the same workers.

    A combination that cannot be trained or searched does not stop the others: its row has the `error`.

    Args:
        config: a YAML file.
        choices: the values of each key that is set (`parse_choices`).
        out: the folder for the run folders and the table of rows; None: results/<name>-sweep.
        progress: receives the progress of the runs.

    Returns:
        A row for each combination, and the sweep's folder.

    Raises:
        UserError: one line for a mistake in the config, before anything is written, or in a run folder.
    """
    if is_remote(out):
        raise ConfigError(f"--out: a sweep's folder must be on this machine's disk, not {out}")
    wanted = configs_of(config, choices)
    first = next(iter(wanted.values()))[1]
    top = local_path(out) if out is not None else Path("results") / f"{first.name}-sweep"
    rows: list[Row] = []
    with open_worker_pool(first.workers, resolve_device(first.device)) as pool:
        for number, (name, (varied, settings)) in enumerate(wanted.items(), 1):
            progress.stage("run", f"{number} of {len(wanted)}: {name}")
            try:
                run = run_or_resume(settings, RunFolder(top / name), progress, pool)
                rows.append(_row(name, varied, run))
            except (DataError, NetworkError, SearchSpaceError, TrainingError) as error:
                logger.warning("%s: %s", name, error)
                rows.append(_row(name, varied, None) | {"error": str(error)})
            write_csv(top / TABLE, rows)
    return rows, top


def _row(name: str, varied: Mapping[str, object], run: Run | None) -> Row:
    """A run by its cheapest survivor; without values if there is none."""
    row: Row = {"run": name, **varied, "survivors": 0 if run is None else len(run.survivors)}
    best = None if run is None or run.survivors.empty else run.survivors.iloc[0]
    return row | {column: None if best is None else best[column] for column in _MEASURED} | {"error": None}
