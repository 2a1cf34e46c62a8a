"""Following a run of another process by the files that appear in its folder."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from evoprune.config.schema import Config
from evoprune.progress import GenerationSummary, Progress, duration
from evoprune.record.costs import cost_info, whole_cost
from evoprune.record.folder import RunFolder
from evoprune.record.fronts import front
from evoprune.record.json_files import read_space
from evoprune.record.runs import Run, load_run
from evoprune.record.tables import read_generation

_log = logging.getLogger(__name__)

QUIET_SECONDS = 600
"""Seconds without a new file after which a note says so, once."""

Wait = Callable[[], float]
"""Waits before the folder is read again. Returns the number of seconds it waited."""


def watch(path: str | Path, progress: Progress, wait: Wait) -> Run:
    """Reports what has happened and what happens in a run folder, until the run is finished. Only reads.

    Args:
        path: the run folder.
        progress: receives the stages, generations and notes.
        wait: called between two looks at the folder.

    Returns:
        The finished run.

    Raises:
        RunFolderError: the folder holds no run, or holds none any more, or one of its files is damaged.
    """
    run = load_run(path)
    folder, rounds = RunFolder(run.root), run.rounds
    for number, config in enumerate(rounds, 1):
        if len(rounds) > 1:
            progress.stage("round", f"{number} of {len(rounds)}")
        _follow(_Round(folder.of_round(number, len(rounds)), config, folder), progress, wait)
    progress.stage("done", str(run.root))
    return load_run(path)


@dataclass(frozen=True)
class _Round:
    """A round that is followed. run: the folder of the whole run, which is the round's own for the last one."""

    folder: RunFolder
    config: Config
    run: RunFolder

    def summary(self, generation: int, candidates: pd.DataFrame, best: pd.DataFrame, newest: bool) -> GenerationSummary:
        """The summary of a generation.

        Args:
            generation: its number.
            candidates: its candidates.
            best: the front of all candidates up to it.
            newest: whether it is the newest one, so that the time left can be told.
        """
        search, cost = self.config.search, cost_info(self.folder, self.config.search.cost)
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
            best_cost=float(best[cost.column].iloc[0]) if len(best) else None,
            full_cost=self._full_cost(),
            cost_name=cost.name,
            best_mcr=float(best["mcr"].iloc[0]) if len(best) else None,
            evaluations_per_second=evaluated / (seconds or float(candidates["eval_seconds"].sum()) or 1.0),
            seconds_left=seconds * left if seconds and newest else None,
        )

    def _seconds(self, generation: int) -> float | None:
        """Seconds between the file of this generation and the one before; None if they are not known."""
        before, after = (self.folder.candidates(number) for number in (generation - 1, generation))
        if not before.is_file():
            return None
        return max(after.stat().st_mtime - before.stat().st_mtime, 0.0) or None

    def _full_cost(self) -> float:
        space = read_space(self.folder)
        return whole_cost(self.folder, self.folder, space, self.config.search.cost)


def _follow(here: _Round, progress: Progress, wait: Wait) -> None:
    """Reports a round from its present state to its end."""
    folder, told, retrained = here.folder, -1, set[str]()
    best: pd.DataFrame | None = None
    stage, quiet, complained = "", 0.0, False
    while True:
        finished = folder.survivors_table.is_file()  # read first: all other files are written before this one
        happened = False
        for name, detail in _stages(here):
            if _ORDER.index(name) > _ORDER.index(stage):
                progress.stage(name, detail)
                stage, happened = name, True
            if name == "search":
                generations = folder.snapshot_generations()
                for generation in [number for number in generations if number > told]:
                    candidates = read_generation(folder, generation)
                    known = candidates if best is None else pd.concat([best, candidates])
                    best = front(known, cost_info(folder, here.config.search.cost).column)
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
            load_run(here.run.root)  # raises


_ORDER = ("", "baseline", "search", "retrain")


def _stages(here: _Round) -> list[tuple[str, str]]:
    """The stages that the round has begun, by the files in its folder, each with its detail."""
    folder = here.folder
    stages = [("baseline", here.config.model.network)]
    if folder.space.is_file():
        stages.append(("search", f"{here.config.search.generations} generations"))
        if max(folder.snapshot_generations(), default=-1) >= here.config.search.generations:
            stages.append(("retrain", f"up to {here.config.retrain.survivors} survivors"))
    return stages
