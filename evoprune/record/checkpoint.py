"""Snapshots: the state of a search after each generation, from which it goes on as if never interrupted."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from evoprune.errors import RunFolderError, SearchSpaceError, UserError
from evoprune.record import files
from evoprune.record.costs import own_columns
from evoprune.record.file_errors import DamagedFileError, damaged
from evoprune.record.folder import RunFolder
from evoprune.record.loop_state import loop_from_json
from evoprune.record.schemas import StoredSnapshot
from evoprune.record.tables import candidates_of, read_generation
from evoprune.scoring.candidate import Candidate
from evoprune.search.algorithm import Algorithm
from evoprune.search.loop import SearchLoop
from evoprune.space.search_space import SearchSpace

LAYOUT = 2
_MOST_LAYOUTS = 1000
_LONGEST_SHOWN = 60
_MISSING = object()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """The state of a search after a generation.

    Attributes:
        generation: the generation, from 0.
        algorithm: plain JSON data that the algorithm goes on from: state of the generator, keys of the population.
        loop: plain JSON data that the loop around the algorithm goes on from (`loop_state`).
        fingerprint: what the search was made under, by key: the entries of the config that may not change, and the hash
            of the search space.
    """

    generation: int
    algorithm: dict[str, Any]
    loop: dict[str, Any]
    fingerprint: dict[str, Any]


def write_snapshot(folder: RunFolder, snapshot: Snapshot) -> None:
    """Stores a snapshot. Raises RunFolderError as `files.write_bytes`."""
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
    """The snapshot after a generation.

    Args:
        folder: the run folder.
        generation: the generation.
        fingerprint: what the search is made under now.

    Raises:
        RunFolderError: there is none, or it is of another layout, version or fingerprint; names the difference.
        DamagedFileError: the file holds no snapshot of this generation.
    """
    snapshot, _ = _read(folder, generation, fingerprint)
    return snapshot


def newest_state(
    folder: RunFolder, fingerprint: Mapping[str, Any], space: SearchSpace, images: int
) -> tuple[Snapshot | None, list[Candidate]]:
    """The newest snapshot that is whole, as its own candidates are, and the candidates of all generations up to it.

    A damaged snapshot is passed over, and so is one whose own candidates are damaged; a warning names the file.

    Args:
        folder: the run folder.
        fingerprint: what the search is made under now.
        space: the search space.
        images: number of validation images.

    Returns:
        (None, []) if the folder has no snapshot.

    Raises:
        RunFolderError: as `read_snapshot`, for the newest one that is whole.
        DamagedFileError: the candidates of an earlier generation are damaged, since all later generations would be lost
            with them; or no snapshot is whole.
    """
    table = cache(lambda number: _candidates(folder, number, space))
    errors: list[DamagedFileError] = []
    for generation in reversed(folder.snapshot_generations()):
        if errors:
            _log.warning("%s; going on from the snapshot before it", errors[-1])
        try:
            snapshot, stored = _read(folder, generation, fingerprint)
            newest = table(generation)
        except DamagedFileError as error:
            errors.append(error)
            continue
        candidates = [candidate for number in range(generation) for candidate in table(number)] + newest
        if misfit := _misfit(stored, candidates, space, images):
            errors.append(damaged(folder.snapshot(generation), misfit))
            continue
        return snapshot, candidates
    if errors:
        raise errors[0]
    return None, []


def restore_search(
    folder: RunFolder, loop: SearchLoop, algorithm: Algorithm, snapshot: Snapshot, candidates: Sequence[Candidate]
) -> None:
    """Brings a search to where it stood at a snapshot.

    Args:
        folder: the run folder, which an error names.
        loop: a new loop of the algorithm.
        algorithm: a new one, of the snapshot's search.
        snapshot: as `newest_state` gives it.
        candidates: those of all generations up to it.

    Raises:
        DamagedFileError: the snapshot holds the state of another algorithm.
    """
    path = folder.snapshot(snapshot.generation)
    if not _alike(algorithm.state(), snapshot.algorithm):
        raise damaged(path, "its state is of another algorithm")
    try:
        loop.restore(snapshot.generation + 1, snapshot.algorithm, loop_from_json(snapshot.loop), candidates)
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise damaged(path, f"its search cannot go on from it ({type(error).__name__}: {error})") from error


def drop_after(folder: RunFolder, generation: int) -> None:
    """Removes the snapshots and candidates of later generations, the last one first.

    What remains after an interruption is thus still a run without gaps.
    """
    snapshots = [folder.snapshot(number) for number in reversed(folder.snapshot_generations()) if number > generation]
    candidates = [
        folder.candidates(number) for number in reversed(folder.candidate_generations()) if number > generation
    ]
    files.remove([*snapshots, *candidates])


def _read(folder: RunFolder, generation: int, fingerprint: Mapping[str, Any]) -> tuple[Snapshot, StoredSnapshot]:
    """The snapshot, and its content as it was validated. Raises as `read_snapshot`."""
    path = folder.snapshot(generation)
    if not path.is_file():
        there = ", ".join(str(known) for known in folder.snapshot_generations()) or "none"
        raise RunFolderError(f"{folder.root} has no snapshot of generation {generation}; there are: {there}")
    content = files.read_json(path)
    _check_version(folder, generation, content)
    stored = files.validated(path, StoredSnapshot, json.dumps(content))
    if stored.generation != generation:
        raise damaged(path, f"it is of generation {stored.generation}")
    if difference := _difference(stored.fingerprint, fingerprint):
        raise RunFolderError(f"{path} is of another search: {difference}; put that back, or start a new run with --out")
    return Snapshot(generation, content["algorithm"], content["loop"], content["fingerprint"]), stored


def _check_version(folder: RunFolder, generation: int, content: Any) -> None:
    """Raises RunFolderError if another layout or version wrote the snapshot, DamagedFileError if it says neither."""
    path = folder.snapshot(generation)
    if not isinstance(content, dict) or content.get("layout") not in range(_MOST_LAYOUTS):
        raise damaged(path, "it holds no snapshot")
    if content["layout"] != LAYOUT:
        raise RunFolderError(
            f"{path} has layout {content['layout']}, not {LAYOUT}; resume with the evoprune of "
            f"{folder.environment.name}"
        )
    there, here = content.get("version"), metadata.version("evoprune")
    if there not in (None, here):  # the first ones did not say
        raise RunFolderError(
            f"{path} was written by evoprune {_worded(there)}, and this is {here}, which may search differently; "
            "resume with that version, or start a new run with --out"
        )


def _candidates(folder: RunFolder, generation: int, space: SearchSpace) -> list[Candidate]:
    path = folder.candidates(generation)
    if not path.is_file():
        raise DamagedFileError(f"{path} is missing; put it back from a copy, or branch off before it")
    candidates = candidates_of(read_generation(folder, generation), own_columns(folder))
    genomes = [candidate.genome for candidate in candidates]
    if any(genome.shape != (space.genes,) for genome in genomes) or (np.array(genomes) >= space.cardinality).any():
        raise damaged(path, f"a genome is none of this search space's, of {space.genes} genes")
    return candidates


def _misfit(stored: StoredSnapshot, candidates: Sequence[Candidate], space: SearchSpace, images: int) -> str | None:
    """The first thing that a snapshot names and that is not there (a candidate, an image, a gene), in words."""
    known = {candidate.key for candidate in candidates if not candidate.cached}  # the others have the scores of these
    if space.key(space.full()) not in known:
        return "the tables up to it lack the unpruned network"
    if unknown := sorted(stored.algorithm.keys - known):
        return f"it names the candidate {unknown[0]}, which no table up to it has the score of"
    if len(stored.loop.wrong_share) != images:
        return f"it is of {len(stored.loop.wrong_share)} validation images, not {images}"
    try:
        for part in stored.loop.under_way:
            keys = [space.key(np.frombuffer(bytes.fromhex(genome), dtype=np.uint8)) for genome in part.genomes]
            if keys != part.keys:
                return "a genome under way has another key"
    except SearchSpaceError as error:
        return f"a genome under way is none of this search space's ({error})"
    return None


def _alike(one: Any, other: Any) -> bool:
    """Whether two states have the same keys, and as many lists in each list of lists (one for each target)."""
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(_alike(one[k], other[k]) for k in one)
    if isinstance(one, list) and one and all(isinstance(part, list) for part in one):
        return isinstance(other, list) and len(one) == len(other)
    return True


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """The first key whose values differ, in words. Compared as JSON has them: a tuple is a list."""
    for key in sorted({*there, *here}):
        old, new = there.get(key, _MISSING), here.get(key, _MISSING)
        if old is _MISSING or new is _MISSING or old != json.loads(json.dumps(new)):
            return f"{key[:_LONGEST_SHOWN]} was {_worded(old)} and is now {_worded(new)}"
    return None


def _worded(value: object) -> str:
    text = "absent" if value is _MISSING else json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
