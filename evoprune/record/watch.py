"""Following a run that another process does, by what appears in its folder."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from evoprune.config.loading import round_configs
from evoprune.config.schema import Config
from evoprune.progress import GenerationSummary, Progress, duration
from evoprune.record.costs import cost_column, whole_cost
from evoprune.record.folder import RunFolder
from evoprune.record.fronts import front
from evoprune.record.json_files import read_space
from evoprune.record.runs import Run, load_run
from evoprune.record.tables import read_generation

_log = logging.getLogger(__name__)

QUIET_SECONDS = 600
"""How long nothing may happen before that is said."""

Wait = Callable[[], float]
"""Waits before the next look. Returns how many seconds it waited."""


def watch(path: str | Path, progress: Progress, wait: Wait) -> Run:
    """Tells `progress` what happens in a run folder, and what has happened already, until the run is finished.

    Only reads. Returns the finished run. Raises RunFolderError where the folder holds no run, or does no more.
    """
    run = load_run(path)
    configs = round_configs(run.config)
    folder = RunFolder(run.root)
    for number, config in enumerate(configs, 1):
        if len(configs) > 1:
            progress.stage("round", f"{number} of {len(configs)}")
        here = folder if number == len(configs) else folder.round(number)
        _follow(_Round(here, config, folder), progress, wait)
    progress.stage("done", str(run.root))
    return load_run(path)


@dataclass(frozen=True)
class _Round:
    """What is followed. run: the run's folder, which the round's may be."""

    folder: RunFolder
    config: Config
    run: RunFolder

    def summary(self, generation: int, candidates: pd.DataFrame, best: pd.DataFrame, newest: bool) -> GenerationSummary:
        """candidates: of that generation. best: the front of all candidates by then. newest: the time left is known."""
        search = self.config.search
        seconds = self._seconds(generation)
        evaluated = int((~candidates["cached"].astype(bool)).sum())
        left = search.generations - generation
        return GenerationSummary(
            generation=generation,
            generations=search.generations,
            evaluated=evaluated,
            cached=len(candidates) - evaluated,
            feasible=int(candidates["feasible"].fillna(False).sum()),
            candidates=len(candidates),
            best_cost=float(best[cost_column(search.cost)].iloc[0]) if len(best) else None,
            full_cost=self._full_cost(),
            cost_name=search.cost,
            best_mcr=float(best["mcr"].iloc[0]) if len(best) else None,
            evaluations_per_second=evaluated / (seconds or float(candidates["eval_seconds"].sum()) or 1.0),
            seconds_left=seconds * left if seconds and newest else None,
        )

    def _seconds(self, generation: int) -> float | None:
        """Between this generation's file and the one before; None where that cannot be told."""
        before, after = (self.folder.candidates(number) for number in (generation - 1, generation))
        if not before.is_file():
            return None
        return max(after.stat().st_mtime - before.stat().st_mtime, 0.0) or None

    def _full_cost(self) -> float:
        space = read_space(self.folder)
        return whole_cost(self.folder, space, self.config.search.cost)


def _follow(here: _Round, progress: Progress, wait: Wait) -> None:
    """From wherever the round stands to its end."""
    folder, told, retrained = here.folder, -1, set[str]()
    best: pd.DataFrame | None = None
    stage, quiet, complained = "", 0.0, False
    while True:
        finished = folder.survivors_table.is_file()  # looked at first: what is there now was there before it
        happened = False
        for name, detail in _stages(here):
            if _ORDER.index(name) > _ORDER.index(stage):
                progress.stage(name, detail)
                stage, happened = name, True
            if name == "search":
                generations = folder.snapshot_generations()
                for generation in [number for number in generations if number > told]:
                    candidates = read_generation(folder, generation)
                    best = front(candidates if best is None else pd.concat([best, candidates]), here.config.search.cost)
                    progress.generation(here.summary(generation, candidates, best, generation == generations[-1]))
                    told, happened = generation, True
        for survivor in sorted(set(folder.survivor_keys()) - retrained):
            progress.stage("retrained", survivor)
            retrained.add(survivor)
            happened = True
        if finished:
            return
        quiet, complained = (0.0, False) if happened else (quiet, complained)
        if quiet >= QUIET_SECONDS and not complained:
            root = here.run.root
            _log.warning("nothing new for %s: if the run has stopped, evoprune resume %s", duration(quiet), root)
            complained = True
        quiet += wait()
        if not here.run.holds_run():
            load_run(here.run.root)  # which complains


_ORDER = ("", "baseline", "search", "retrain")


def _stages(here: _Round) -> list[tuple[str, str]]:
    """The stages that the round has begun, by what is in its folder, with what there is to say of them."""
    folder = here.folder
    stages = [("baseline", here.config.model.network)]
    if folder.space.is_file():
        stages.append(("search", f"{here.config.search.generations} generations"))
        if max(folder.snapshot_generations(), default=-1) >= here.config.search.generations:
            stages.append(("retrain", f"up to {here.config.retrain.survivors} survivors"))
    return stages
