"""Snapshots: the state of a search after each generation, from which it goes on as if never interrupted."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from evoprune.errors import RunFolderError
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.tables import candidates_of
from evoprune.scoring.candidate import Candidate

LAYOUT = 2
_MISSING = object()


@dataclass(frozen=True)
class Snapshot:
    """The search after `generation`.

    algorithm: plain JSON data, whatever the algorithm goes on from (state of the generators, keys of the
    population). fingerprint: what it was searched under, key by key: the config's entries that may not
    change, the search space's hash. loop: plain JSON data, where the loop around the algorithm
    stands.
    """

    generation: int
    algorithm: dict[str, Any]
    loop: dict[str, Any]
    fingerprint: dict[str, Any]


def write_snapshot(folder: RunFolder, snapshot: Snapshot) -> None:
    """Put a snapshot into the run folder. Raises RunFolderError as `files.write_bytes`."""
    content = {
        "layout": LAYOUT,
        "version": metadata.version("evoprune"),
        "generation": snapshot.generation,
        "fingerprint": snapshot.fingerprint,
        "algorithm": snapshot.algorithm,
        "loop": snapshot.loop,
    }
    files.write_json(folder.snapshot(snapshot.generation), content)


def read_snapshot(folder: RunFolder, generation: int, fingerprint: Mapping[str, Any]) -> Snapshot:
    """The snapshot after `generation`, taken under the same fingerprint.

    Raises RunFolderError where there is none, where it is damaged (DamagedFileError), or where it is of
    another layout, version or fingerprint; names what differs.
    """
    path = folder.snapshot(generation)
    if not path.is_file():
        there = ", ".join(str(known) for known in folder.snapshot_generations()) or "none"
        raise RunFolderError(f"{folder.root} has no snapshot of generation {generation}; there are: {there}")
    content = files.read_json(path)
    try:
        layout = content["layout"]
        if layout != LAYOUT:
            raise RunFolderError(
                f"{path} has layout {layout}, not {LAYOUT}; resume with the evoprune of {folder.environment.name}"
            )
        there, here = content.get("version"), metadata.version("evoprune")
        if there not in (None, here):  # the first ones did not say
            raise RunFolderError(
                f"{path} was written by evoprune {there}, and this is {here}, which may search differently; "
                f"resume with evoprune {there}, or start a new run with --out"
            )
        snapshot = Snapshot(*(content[key] for key in ("generation", "algorithm", "loop", "fingerprint")))
        difference = _difference(snapshot.fingerprint, fingerprint)
    except (KeyError, TypeError) as error:
        raise files.DamagedFileError(f"{path} is damaged: it holds no snapshot; remove it") from error
    if difference:
        raise RunFolderError(f"{path} is of another search: {difference}; put that back, or start a new run with --out")
    return snapshot


def newest_snapshot(folder: RunFolder, fingerprint: Mapping[str, Any], warn: Callable[[str], None]) -> Snapshot | None:
    """The newest snapshot that is whole, or None; each damaged one passed over is told to `warn`.

    Raises RunFolderError as `read_snapshot` where the newest whole one is of another search.
    """
    for generation in reversed(folder.snapshot_generations()):
        try:
            return read_snapshot(folder, generation, fingerprint)
        except files.DamagedFileError as error:
            warn(f"{error}; going on from the snapshot before it")
    return None


def newest_state(
    folder: RunFolder, fingerprint: Mapping[str, Any], warn: Callable[[str], None]
) -> tuple[Snapshot | None, list[Candidate]]:
    """The newest snapshot whose own candidates are whole, too, and the candidates of all generations up to it.

    What was damaged and passed over is told to `warn`. Raises RunFolderError as `newest_snapshot`, and DamagedFileError
    where an earlier generation's candidates are damaged: all that came after would be lost with them.
    """
    snapshot = newest_snapshot(folder, fingerprint, warn)
    while snapshot is not None:
        last = snapshot.generation
        try:
            newest = _candidates(folder, last)
            return snapshot, [c for g in range(last) for c in _candidates(folder, g)] + newest
        except files.DamagedFileError as error:
            if str(folder.candidates(last)) not in str(error):
                raise
            warn(f"{error}; going on from the snapshot before it")
            drop_after(folder, last - 1)
            snapshot = newest_snapshot(folder, fingerprint, warn)
    return None, []


def _candidates(folder: RunFolder, generation: int) -> list[Candidate]:
    path = folder.candidates(generation)
    if not path.is_file():
        raise files.DamagedFileError(f"{path} is missing; put it back from a copy, or branch off before it")
    return candidates_of(files.read_parquet([path]))


def drop_after(folder: RunFolder, generation: int) -> None:
    """Remove the snapshots and candidates of later generations, the last one first.

    What remains after an interruption is thus still a run without gaps.
    """
    snapshots = [folder.snapshot(g) for g in reversed(folder.snapshot_generations()) if g > generation]
    candidates = [folder.candidates(g) for g in reversed(folder.candidate_generations()) if g > generation]
    files.remove([*snapshots, *candidates])


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """The first key whose values differ, in words. Compared as JSON has them: a tuple is a list."""
    for key in sorted({*there, *here}):
        old, new = there.get(key, _MISSING), here.get(key, _MISSING)
        if old is _MISSING or new is _MISSING or old != json.loads(json.dumps(new)):
            return f"{key} was {_worded(old)} and is now {_worded(new)}"
    return None


def _worded(value: object) -> str:
    return "absent" if value is _MISSING else json.dumps(value)
