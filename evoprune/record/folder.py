"""The paths of a run folder. The only place that knows them, and the place that keeps them inside the folder."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from evoprune.errors import RunFolderError

OWN_FILES = (
    "config.yaml",
    "environment.json",
    "identity.json",
    "baseline.safetensors",
    "rewind.safetensors",
    "space.json",
    "execution.json",
    "latency.json",
    "cost.json",
    "survivors.parquet",
    "layers.parquet",
    "report.html",
)
"""Names of a run's files in the folder itself, besides the lock."""

OWN_FOLDERS = {
    "training": re.compile(r"[\w-]+\.safetensors"),
    "candidates": re.compile(r"gen-\d{4,9}\.parquet"),
    "checkpoints": re.compile(r"gen-\d{4,9}\.json"),
    "survivors": re.compile(r"[0-9a-f]+\.safetensors"),
    "plots": re.compile(r"[\w-]+\.(png|svg)"),
    "tensorboard": re.compile(r"events\.out\.tfevents\.[\w.-]+"),
}
"""A run's sub-folders, and the names of its files in them. Files of other names are the user's."""

MADE_WHEN_NEEDED = ("plots", "tensorboard")
_EXPORT = "export"
_ROUNDS = "rounds"
_LOCK = "lock"
_ROUND_NUMBER = re.compile(r"[1-9]\d{0,3}")
_NAME = re.compile(r"[\w-]+")
_FILE_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run, all below `root`. Reads and writes nothing by itself.

    Every path is checked when it is asked for: below `root`, no part of it is a link, so that nothing outside of the
    folder is read, written or removed through it. `root` itself may be a link.

    Attributes:
        root: the folder.
        check_lock: raises RunFolderError if this process has lost the folder (`lock.locked`); None if the folder is
            only read.
    """

    root: Path
    check_lock: Callable[[], None] | None = field(default=None, compare=False, repr=False)

    @property
    def lock(self) -> Path:
        """The lock file of the process that works here (`lock.locked`)."""
        return self._inside(_LOCK)

    @property
    def config(self) -> Path:
        """The resolved config. Written last of the set-up: with it, the folder holds a run."""
        return self._inside("config.yaml")

    @property
    def environment(self) -> Path:
        """Versions and machine (`environment.environment`)."""
        return self._inside("environment.json")

    @property
    def identity(self) -> Path:
        """Hashes of the weights and data that the run is made on."""
        return self._inside("identity.json")

    @property
    def baseline(self) -> Path:
        """The weights of the trained baseline."""
        return self._inside("baseline.safetensors")

    @property
    def rewind(self) -> Path:
        """The baseline's weights after the epoch that survivors are rewound to."""
        return self._inside("rewind.safetensors")

    @property
    def space(self) -> Path:
        """The search space as plain data."""
        return self._inside("space.json")

    @property
    def execution(self) -> Path:
        """The batch sizes that candidates are scored with."""
        return self._inside("execution.json")

    @property
    def latency(self) -> Path:
        """The times of the network's layers, if the search predicts latency."""
        return self._inside("latency.json")

    @property
    def cost(self) -> Path:
        """The data of a cost of the user's own that reading the run needs, if the search minimises one."""
        return self._inside("cost.json")

    @property
    def survivors_table(self) -> Path:
        """The survivors frame. Written at the end."""
        return self._inside("survivors.parquet")

    @property
    def layers_table(self) -> Path:
        """The layers of the survivors. Written just before the survivors frame."""
        return self._inside("layers.parquet")

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self._inside("report.html")

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self._inside("tensorboard")

    def plot(self, name: str, form: str) -> Path:
        """A picture; `form` is png or svg."""
        return self._inside("plots", f"{name}.{form}")

    def plots(self) -> list[Path]:
        """The pictures on disk, by name."""
        return self.own_files_in("plots")

    def exported(self, name: str) -> Path:
        """A file of `evoprune export`. Raises RunFolderError if the name is no plain file name."""
        if not _FILE_NAME.fullmatch(name):
            raise RunFolderError(f"{self.root}: {name!r} is no name of an exported file; use letters, digits, ., _, -")
        return self._inside(_EXPORT, name)

    def training(self, network: str) -> Path:
        """The state in the middle of training a network: `baseline`, or a survivor's key."""
        return self._named("training", network)

    def candidates(self, generation: int) -> Path:
        """The candidates frame of one generation."""
        return self._inside("candidates", f"gen-{generation:04d}.parquet")

    def snapshot(self, generation: int) -> Path:
        """The state of the search after one generation."""
        return self._inside("checkpoints", f"gen-{generation:04d}.json")

    def survivor(self, key: str) -> Path:
        """The retrained, compacted weights of a survivor."""
        return self._named("survivors", key)

    def survivor_keys(self) -> list[str]:
        """The keys of survivors whose weights are on disk, sorted."""
        return [path.stem for path in self.own_files_in("survivors")]

    def round(self, number: int) -> "RunFolder":
        """The run folder of a round before the last one, counted from 1."""
        return replace(self, root=self._inside(_ROUNDS, str(number)))

    def of_round(self, number: int, rounds: int) -> "RunFolder":
        """The folder of a round, counted from 1: the last round's is the run's own, the others are below it."""
        return self if number == rounds else self.round(number)

    def rounds(self) -> list["RunFolder"]:
        """The run folders of earlier rounds that are on disk, in order."""
        names = [path.name for path in _listing(self._inside(_ROUNDS)) if _ROUND_NUMBER.fullmatch(path.name)]
        folders = [self.round(number) for number in sorted(map(int, names))]
        return [folder for folder in folders if folder.root.is_dir()]

    def round_of(self) -> "RunFolder | None":
        """The folder of the run that this one is an earlier round of; None if it is a run by itself."""
        root = self.root.absolute()
        outer = RunFolder(root.parent.parent)
        is_round = root.parent.name == _ROUNDS and _ROUND_NUMBER.fullmatch(root.name) and outer.holds_run()
        return outer if is_round else None

    def candidate_generations(self) -> list[int]:
        """The generations whose candidates are on disk, ascending."""
        return self._generations("candidates")

    def snapshot_generations(self) -> list[int]:
        """The generations whose snapshots are on disk, ascending."""
        return self._generations("checkpoints")

    def holds_run(self) -> bool:
        """Whether a run was set up here, finished or not.

        Both files must be there: a folder with a config.yaml of the user's own is no run.
        """
        return (self.root / "config.yaml").is_file() and (self.root / "environment.json").is_file()

    def same_place(self, path: Path, of: "RunFolder") -> Path:
        """The path here that `path` is in another run folder."""
        return self._inside(*path.relative_to(of.root).parts)

    def own_files(self) -> list[Path]:
        """The files that a run puts here, without those of its earlier rounds; some may not be there."""
        below = [path for name in OWN_FOLDERS for path in self.own_files_in(name)]
        return [self._inside(name) for name in OWN_FILES] + below

    def own_files_in(self, name: str) -> list[Path]:
        """The files of one of OWN_FOLDERS that have a name of the run's, sorted."""
        listed = _listing(self.sub_folder(name))
        return [self._inside(name, path.name) for path in listed if OWN_FOLDERS[name].fullmatch(path.name)]

    def sub_folder(self, name: str) -> Path:
        """One of OWN_FOLDERS."""
        return self._inside(name)

    @property
    def rounds_folder(self) -> Path:
        """The folder of the earlier rounds."""
        return self._inside(_ROUNDS)

    def refuse_links(self) -> None:
        """Looks at every place of the run, and of its rounds, at once.

        Raises:
            RunFolderError: one of them is a link.
        """
        for name in (_LOCK, _EXPORT, *OWN_FILES, *OWN_FOLDERS):
            self._inside(name)
        for name in OWN_FOLDERS:
            self.own_files_in(name)
        for path in _listing(self._inside(_EXPORT)):
            self._inside(_EXPORT, path.name)
        for folder in self.rounds():
            folder.refuse_links()

    def _inside(self, *names: str) -> Path:
        """The path of these names below the root, once the lock and every part of the path are checked."""
        if self.check_lock is not None:
            self.check_lock()
        *_, path = paths = list(_paths(self.root, names))
        for place in paths:
            if place.is_symlink():
                raise RunFolderError(
                    f"{place} is a link (to {place.readlink()}), and nothing in a run folder is read or written "
                    "through links, since they may lead out of it; "
                    "put the file or folder itself there, or remove the link"
                )
        return path

    def _generations(self, folder: str) -> list[int]:
        names = [path.name for path in self.own_files_in(folder)]
        return sorted(int(name.removeprefix("gen-").split(".")[0]) for name in names)

    def _named(self, folder: str, name: str) -> Path:
        # the name may come from a table of somebody else's: it must not lead out of the folder
        if not _NAME.fullmatch(name):
            raise RunFolderError(f"{self.root}: {name!r} names no network; use letters, digits, _ and - only")
        return self._inside(folder, f"{name}.safetensors")


def _paths(root: Path, names: tuple[str, ...]) -> Iterator[Path]:
    for number in range(1, len(names) + 1):
        yield root.joinpath(*names[:number])


def _listing(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
