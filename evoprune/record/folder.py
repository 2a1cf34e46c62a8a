"""The run folder: what lies where in it, and whether it is one."""

import os
import platform
import re
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from evoprune.errors import RunFolderError
from evoprune.record import files

_VERSIONS_OF = (
    "evoprune",
    "torch",
    "torchvision",
    "numpy",
    "ray",
    "deap",
    "pandas",
    "pyarrow",
    "safetensors",
)
_OWN_FILES = (
    "config.yaml",
    "environment.json",
    "baseline.safetensors",
    "rewind.safetensors",
    "space.json",
    "execution.json",
    "latency.json",
    "survivors.parquet",
    "layers.parquet",
    "report.html",
)
_OWN_FOLDERS = {
    "training": re.compile(r"[\w-]+\.safetensors"),
    "candidates": re.compile(r"gen-\d{4,}\.parquet"),
    "checkpoints": re.compile(r"gen-\d{4,}\.json"),
    "survivors": re.compile(r"[0-9a-f]+\.safetensors"),
    "plots": re.compile(r"[\w-]+\.(png|svg)"),
    "tensorboard": re.compile(r"events\.out\.tfevents\.[\w.-]+"),
}
_MADE_WHEN_NEEDED = ("plots", "tensorboard")
_ROUNDS = "rounds"
_NUMBER = re.compile(r"[1-9]\d{0,3}")
_NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run, all below `root`. Knows names only; reads and writes nothing by itself."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held by the process that works here (`lock.locked`)."""
        return self.root / "lock"

    @property
    def config(self) -> Path:
        """The config as resolved. Written last of the set-up: with it, the folder holds a run."""
        return self.root / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions and machine, as `environment()` gives them."""
        return self.root / "environment.json"

    @property
    def baseline(self) -> Path:
        """The trained baseline's weights."""
        return self.root / "baseline.safetensors"

    @property
    def rewind(self) -> Path:
        """The baseline's weights at the epoch of its training that survivors are rewound to, where they are."""
        return self.root / "rewind.safetensors"

    @property
    def space(self) -> Path:
        """The search space as plain data."""
        return self.root / "space.json"

    @property
    def execution(self) -> Path:
        """In which batches candidates are scored."""
        return self.root / "execution.json"

    @property
    def latency(self) -> Path:
        """Times of the network's layers, where the search predicts latency."""
        return self.root / "latency.json"

    @property
    def survivors_table(self) -> Path:
        """The survivors frame. Written at the end."""
        return self.root / "survivors.parquet"

    @property
    def layers_table(self) -> Path:
        """The survivors' layers. Written just before the survivors frame."""
        return self.root / "layers.parquet"

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.root / "report.html"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.root / "tensorboard"

    def plot(self, name: str, form: str) -> Path:
        """A picture. form: png or svg."""
        return self.root / "plots" / f"{name}.{form}"

    def training(self, network: str) -> Path:
        """The state in the middle of training a network: `baseline`, or a survivor's key."""
        return self._named("training", network)

    def candidates(self, generation: int) -> Path:
        """The candidates frame of one generation."""
        return self.root / "candidates" / f"gen-{generation:04d}.parquet"

    def snapshot(self, generation: int) -> Path:
        """The search's state after one generation."""
        return self.root / "checkpoints" / f"gen-{generation:04d}.json"

    def survivor(self, key: str) -> Path:
        """A survivor's retrained, compacted weights."""
        return self._named("survivors", key)

    def round(self, number: int) -> "RunFolder":
        """The run folder of a round that is not the last one, counted from 1; the last one's is this folder."""
        return RunFolder(self.root / _ROUNDS / str(number))

    def rounds(self) -> list["RunFolder"]:
        """The run folders of earlier rounds that are on disk, in order."""
        names = [path.name for path in _listing(self.root / _ROUNDS) if path.is_dir()]
        return [self.round(number) for number in sorted(int(name) for name in names if _NUMBER.fullmatch(name))]

    def round_of(self) -> "RunFolder | None":
        """The folder of the run that this one is an earlier round of; None where it is a run by itself."""
        root = self.root.absolute()
        outer = RunFolder(root.parent.parent)
        is_round = root.parent.name == _ROUNDS and _NUMBER.fullmatch(root.name) and outer.holds_run()
        return outer if is_round else None

    def candidate_generations(self) -> list[int]:
        """The generations whose candidates are on disk, ascending."""
        return self._generations("candidates")

    def snapshot_generations(self) -> list[int]:
        """The generations whose snapshots are on disk, ascending."""
        return self._generations("checkpoints")

    def holds_run(self) -> bool:
        """Whether a run was set up here, finished or not.

        Both files must be there: a folder with somebody's own config.yaml is no run.
        """
        return self.config.is_file() and self.environment.is_file()

    def create(self) -> None:
        """Make the folders, note the environment, and sweep up what a killed process left half-written.

        Harmless on a folder that holds a run. Raises RunFolderError where the folder cannot be made or
        written, or where it has a file of a run's name that no run put there.
        """
        self.refuse_strangers()
        try:
            for name in _OWN_FOLDERS.keys() - _MADE_WHEN_NEEDED:
                (self.root / name).mkdir(parents=True, exist_ok=True)
                # writing is tried, because permission bits do not tell of read-only disks
                with tempfile.TemporaryFile(dir=self.root / name):
                    pass
        except OSError as error:
            raise RunFolderError(
                f"run folder {self.root} cannot be written: {error.strerror}; choose another with --out"
            ) from error
        files.remove(self._temporaries())
        if not self.environment.is_file():
            files.write_json(self.environment, environment())

    def refuse_strangers(self) -> None:
        """Raises RunFolderError where there is a file of a run's name that no run put there."""
        strangers = [name for name in _OWN_FILES if (self.root / name).is_file()]
        if strangers and not self.environment.is_file():
            raise RunFolderError(
                f"{self.root} holds a {strangers[0]} that no run wrote; choose another folder with --out"
            )

    def drop_survivors(self, keep: Collection[str] = ()) -> None:
        """Remove what retraining has made, finished or not, of all networks but those with the keys to keep."""
        finished = _listing(self.root / "survivors")
        halfway = [path for path in _listing(self.root / "training") if path.stem != "baseline"]
        made = [path for path in (*finished, *halfway) if path.suffix == ".safetensors"]
        files.remove([path for path in made if path.stem not in keep])

    def clear(self) -> None:
        """Remove the run's own files, by name, its rounds' too, and its folders where that leaves them empty.

        Whatever else lies there stays. Raises RunFolderError where there is no run, a file cannot be
        removed, or one of the run's folders is a link that leads elsewhere.
        """
        if not self.holds_run():
            raise RunFolderError(f"{self.root} holds no run to overwrite; choose another folder with --out")
        rounds = self.rounds()
        below = [folder.root / name for folder in (self, *rounds) for name in _OWN_FOLDERS]
        for place in (self.root / _ROUNDS, *(folder.root for folder in rounds), *below):
            if place.is_symlink():
                raise RunFolderError(f"{place} is a link, which is not cleared; remove it yourself")
        for folder in (*rounds, self):  # the run itself last, so that an interrupted clearing can be repeated
            folder._remove_own()
        _remove_empty([*(folder.root for folder in rounds), self.root / _ROUNDS])

    def _remove_own(self) -> None:
        if self.environment.is_file():  # else no run put anything here
            # the two files that make this a run go last, for the same reason
            content = [path for path in self.own_files() if path not in (self.config, self.environment)]
            files.remove([*content, *self._temporaries(), self.config, self.environment])
        _remove_empty([self.root / name for name in _OWN_FOLDERS])

    def own_files(self) -> list[Path]:
        """The files that a run puts here, by name, without those of its earlier rounds; some may not be there."""
        return [self.root / name for name in _OWN_FILES] + [
            path
            for name, pattern in _OWN_FOLDERS.items()
            for path in _listing(self.root / name)
            if pattern.fullmatch(path.name)
        ]

    def _temporaries(self) -> list[Path]:
        folders = [self.root, *(self.root / name for name in _OWN_FOLDERS)]
        return [path for folder in folders for path in _listing(folder) if path.name.endswith(files.TEMPORARY_SUFFIX)]

    def _generations(self, folder: str) -> list[int]:
        pattern = _OWN_FOLDERS[folder]
        names = [path.name for path in _listing(self.root / folder) if pattern.fullmatch(path.name)]
        return sorted(int(name.removeprefix("gen-").split(".")[0]) for name in names)

    def _named(self, folder: str, name: str) -> Path:
        # a name may come from somebody else's table: it must not lead out of the folder
        if not _NAME.fullmatch(name):
            raise RunFolderError(f"{self.root}: {name!r} names no network; letters, digits, _ and - only")
        return self.root / folder / f"{name}.safetensors"


def environment() -> dict[str, str | int | float | None]:
    """What a result may depend on besides its config: versions, machine, date (UTC). Missing: None."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{package: _version(package) for package in _VERSIONS_OF},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
    }


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _listing(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor() or None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
