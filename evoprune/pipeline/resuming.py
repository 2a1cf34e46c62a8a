"""Going on in a run folder: which changes of the config are allowed, and which files they make stale."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evoprune.config.fields import Mark
from evoprune.config.loading import dump_config, load_config, round_configs
from evoprune.config.marks import keys_with
from evoprune.config.schema import Config
from evoprune.errors import ConfigError, RunFolderError
from evoprune.pipeline.identity import Identity, check_identity, write_identity
from evoprune.record import files
from evoprune.record.checkpoint import read_snapshot
from evoprune.record.folder import RunFolder
from evoprune.record.housekeeping import create, drop_survivors
from evoprune.record.json_files import read_space
from evoprune.record.lock import locked
from evoprune.record.runs import flat_config
from evoprune.space.search_space import SearchSpace


def go_on_in(folder: RunFolder, config: Config, rounds: Sequence[Config], identity: Identity | None = None) -> None:
    """Sets up the run folder, or prepares one that holds a run: files that the new config makes stale are removed.

    Args:
        rounds: the config's rounds; the config itself alone if it has none.
        identity: of the weights and data; None for the folder of a round, which shares those of its run.

    Raises:
        ConfigError: as `check_changes` and `check_identity`.
        RunFolderError: if the folder cannot be written.
    """
    if folder.holds_run():
        check_changes(folder, config, rounds)
        if identity is not None:
            check_identity(folder, identity)
        stored = load_config(folder.config)
        if _retraining_of(round_configs(stored)[-1]) != _retraining_of(rounds[-1]):
            drop_survivors(folder)
        files.remove([folder.survivors_table])
    create(folder)
    if identity is not None:
        write_identity(folder, identity)
    files.write_text(folder.config, dump_config(config))


def is_finished(folder: RunFolder, config: Config) -> bool:
    """Whether the run in the folder is finished, and would have the same results with this config."""
    return folder.survivors_table.is_file() and _results_of(load_config(folder.config)) == _results_of(config)


def check_changes(folder: RunFolder, config: Config, rounds: Sequence[Config], goes_on_from: int | None = None) -> None:
    """Checks that a config goes on with the run in a folder.

    Args:
        rounds: the config's rounds.
        goes_on_from: the generation of the last round that the run goes on from; None: the last finished one.

    Raises:
        ConfigError: if the config makes another search, or one that ends before the generation it goes on from.
    """
    check_same_search(load_config(folder.config), config)
    for number, settings in enumerate(rounds, 1):
        is_last, place = number == len(rounds), folder.of_round(number, len(rounds))
        if not is_last and place.survivors_table.is_file():
            continue  # a finished round stays as it is
        reached = _last_generation(place) if goes_on_from is None or not is_last else goes_on_from
        if settings.search.generations < reached:
            raise ConfigError(
                f"search.generations must be at least {reached}, which this run has reached, not "
                f"{settings.search.generations}; branch off from an earlier generation with --generation and --out"
            )


def check_same_search(stored: Config, config: Config) -> None:
    """Raises ConfigError that names the first key whose change makes another search."""
    before, after, may_change = flat_config(stored), flat_config(config), keys_with(Mark.MAY_CHANGE)
    for key in dict.fromkeys((*after, *before)):
        old, value = before.get(key), after.get(key)
        if old != value and key not in may_change:
            raise ConfigError(
                f"{key} cannot change in a run that is resumed: it is {old} there, not {value}; "
                "start another run with `evoprune run` and --out"
            )


def search_fingerprint(config: Config, space: SearchSpace) -> dict[str, Any]:
    """The identity of a round's search: the config's values that may not change on resuming, and the search space."""
    left_out = keys_with(Mark.MAY_CHANGE) | keys_with(Mark.OUTSIDE_SEARCH)
    fixed = {key: value for key, value in flat_config(config).items() if key not in left_out}
    return fixed | {"search space": space.fingerprint}


def branch(source: RunFolder, target: RunFolder, generation: int) -> None:
    """Makes a run folder with the state that another run had after a generation of its last round.

    Raises:
        RunFolderError: if the target holds a run, or the source has no snapshot of this generation.
    """
    if target.holds_run():
        raise RunFolderError(f"{target.root} holds a run; choose another folder with --out")
    config = load_config(source.config)
    space = read_space(source)
    read_snapshot(source, generation, search_fingerprint(round_configs(config)[-1], space))
    copied = [path for earlier in source.rounds() for path in _table_last(earlier)]
    copied += [path for n in range(generation + 1) for path in (source.candidates(n), source.snapshot(n))]
    copied += [path for path in (source.latency, source.cost, source.rewind) if path.is_file()]
    identity = [source.identity] if source.identity.is_file() else []
    with locked(target) as held:
        create(held)
        for path in (*identity, source.config, *copied, source.baseline, source.space, source.execution):
            # identity and config come first, so that an interrupted branch is a run, too
            files.write_bytes(held.same_place(path, source), files.read_bytes(path))


def _retraining_of(last_round: Config) -> dict[str, Any]:
    """Everything in a config that a retrained survivor depends on, besides its genome."""
    settings = last_round.retrain.model_dump(exclude={"survivors"})
    return settings | {"threads": last_round.workers.threads, "device": last_round.device}


def _results_of(config: Config) -> dict[str, Any]:
    """Everything in a config that a run's results depend on."""
    left_out = keys_with(Mark.NO_RESULT)
    return {key: value for key, value in flat_config(config).items() if key not in left_out}


def _last_generation(folder: RunFolder) -> int:
    """The last generation that the run in the folder has finished; 0 if there is none."""
    return max(folder.snapshot_generations(), default=0)


def _table_last(folder: RunFolder) -> list[Path]:
    """The files of a finished round, the survivors' table last, because it marks the round as finished."""
    others = (path for path in folder.own_files() if path.is_file() and path != folder.survivors_table)
    return [*others, folder.survivors_table]
