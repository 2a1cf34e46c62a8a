"""Setting up a run folder, and removing the files of a run: only files that the run itself made, by their names."""

import re
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

from evoprune.errors import RunFolderError
from evoprune.record import files
from evoprune.record.environment import environment
from evoprune.record.folder import MADE_WHEN_NEEDED, OWN_FILES, OWN_FOLDERS, RunFolder

_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(files.TEMPORARY_SUFFIX)}")


def create(folder: RunFolder) -> None:
    """Makes the sub-folders, writes the environment, and removes what a killed process left half-written.

    Harmless on a folder that holds a run.

    Raises:
        RunFolderError: the folder cannot be made or written, one of its places is a link, or it has a file of a run's
            name that no run wrote.
    """
    folder.refuse_links()
    refuse_strangers(folder)
    try:
        for name in OWN_FOLDERS.keys() - MADE_WHEN_NEEDED:
            sub_folder = folder.sub_folder(name)
            sub_folder.mkdir(parents=True, exist_ok=True)
            # permission bits do not show a read-only disk, so writing is tried
            with tempfile.TemporaryFile(dir=sub_folder):
                pass
    except OSError as error:
        raise RunFolderError(
            f"run folder {folder.root} cannot be written: {error.strerror}; choose another with --out"
        ) from error
    files.remove(_temporaries(folder))
    if not folder.environment.is_file():
        files.write_json(folder.environment, environment())


def refuse_strangers(folder: RunFolder) -> None:
    """Raises RunFolderError if the folder has a file of a run's name that no run wrote."""
    strangers = [name for name in OWN_FILES if (folder.root / name).is_file()]
    if strangers and not folder.environment.is_file():
        raise RunFolderError(
            f"{folder.root} holds a {strangers[0]} that no run wrote; choose another folder with --out"
        )


def drop_survivors(folder: RunFolder, keep: Collection[str] = ()) -> None:
    """Removes retrained networks, finished or not, but those of the keys in `keep`."""
    halfway = [path for path in folder.own_files_in("training") if path.stem != "baseline"]
    made = [*folder.own_files_in("survivors"), *halfway]
    files.remove([path for path in made if path.stem not in keep])


def clear(folder: RunFolder) -> None:
    """Removes the run's own files, its rounds' too, and the folders that are empty then. Other files stay.

    Raises:
        RunFolderError: the folder holds no run, a file cannot be removed, or one of the run's places is a link.
    """
    if not folder.holds_run():
        raise RunFolderError(f"{folder.root} holds no run to overwrite; choose another folder with --out")
    folder.refuse_links()
    rounds = folder.rounds()
    for each in (*rounds, folder):  # the run itself last, so that an interrupted clearing can be repeated
        _remove_own_files(each)
    _remove_empty([*(each.root for each in rounds), folder.rounds_folder])


def _remove_own_files(folder: RunFolder) -> None:
    if folder.environment.is_file():  # without it, no run put anything here
        # the two files that make this a run go last, for the same reason
        content = [path for path in folder.own_files() if path not in (folder.config, folder.environment)]
        files.remove([*content, *_temporaries(folder), folder.config, folder.environment])
    _remove_empty([folder.sub_folder(name) for name in OWN_FOLDERS])


def _temporaries(folder: RunFolder) -> list[Path]:
    folders = [folder.root, *(folder.sub_folder(name) for name in OWN_FOLDERS)]
    found = [path for each in folders if each.is_dir() for path in sorted(each.iterdir())]
    return [path for path in found if _TEMPORARY.fullmatch(path.name)]


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
