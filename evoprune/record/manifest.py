"""The manifest of a stored run: which files the store has, and how far the run is. It decides which side is newer.

It lies beside the run's files, in the store and in the copy on this machine, where it says what the store had when the
two last met.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MANIFEST = "manifest.json"

STAGES = ("nothing", "set up", "baseline", "search", "retrain", "finished")

_ROUND = re.compile(r"rounds/([1-9]\d{0,3})/(.+)")
_GENERATION = re.compile(r"(?:candidates|checkpoints)/gen-(\d{4,9})\.(parquet|json)")
_RANKS = (
    "environment.json",
    "identity.json",
    "config.yaml",
    "training/baseline.safetensors",
    "rewind.safetensors",
    "baseline.safetensors",
    "space.json",
    "latency.json",
    "cost.json",
    "execution.json",
)
_LATER_RANKS = (
    "candidates/",
    "training/",
    "survivors/",
    "layers.parquet",
    "survivors.parquet",
    "plots/",
    "report.html",
)
_OWN = re.compile(
    rf"{_GENERATION.pattern}|training/[\w-]+\.safetensors|survivors/[0-9a-f]+\.safetensors"
    + "".join(f"|{re.escape(name)}" for name in (*_RANKS, "layers.parquet", "survivors.parquet", "report.html"))
)


class FileEntry(BaseModel):
    """The content of a file, by its checksum and its size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: str = Field(pattern=r"^([0-9a-f]{64})?$")
    size: int = Field(ge=0)


Entries = Mapping[str, FileEntry]


class Manifest(BaseModel):
    """The contents of a store after a push.

    Attributes:
        counter: the number of pushes in the run's life.
        token: names this push; parent: names the push before it ("" for none).
        stage, generation: how far the run is, for a human reader.
        files: the run's files by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    layout: Literal[1] = 1
    counter: int = Field(default=0, ge=0)
    token: str = Field(default="", max_length=64)
    parent: str = Field(default="", max_length=64)
    stage: str = Field(default=STAGES[0], max_length=20)
    generation: int | None = Field(default=None, ge=0)
    files: dict[str, FileEntry] = {}


def parsed(data: bytes | None) -> Manifest | None:
    """The manifest in these bytes; None if there are none, or they are no manifest."""
    try:
        return None if data is None else Manifest.model_validate_json(data)
    except ValidationError:
        return None


class Side(Enum):
    """The side that a run goes on from."""

    copy = "the copy on this machine"
    store = "the store"
    store_and_keep_copy = "the store, and the copy is kept aside"


def newer_side(base: Manifest | None, here: Entries, there: Manifest | None, sizes: Mapping[str, int]) -> Side:
    """The side that a run goes on from. Nothing that only one side has computed is lost.

    Args:
        base: the copy's manifest, what the store had when the two last met.
        here: the files of the copy.
        there: the store's manifest, as far as one is known.
        sizes: the store's files, sizes in bytes.
    """
    if not here:
        return Side.store
    if there is None or "config.yaml" not in sizes:  # no run is there
        return Side.copy
    as_listed = {name: entry.size for name, entry in there.files.items()} == sizes  # else a push was interrupted
    if here == there.files and as_listed:
        return Side.copy
    changed = base is None or here != base.files
    if base is not None and there.token and there.token in (base.token, base.parent):  # nobody else has written there
        return Side.store if not changed and not as_listed and there.token == base.token else Side.copy
    same_run = _same("environment.json", here, there.files)
    counter = 0 if base is None else base.counter
    if same_run and not changed and there.counter > counter:
        return Side.store
    # a run computes the same on either side if its config is the same: the side further along includes the other
    ahead, behind = reached(here), reached(there.files)
    further = there.counter < counter or ahead > behind or (ahead == behind and not there.token)
    return Side.copy if same_run and _same("config.yaml", here, there.files) and further else Side.store_and_keep_copy


def _same(name: str, here: Entries, there: Entries) -> bool:
    return name in here and here.get(name) == there.get(name)


@dataclass(frozen=True, order=True)
class Reached:
    """The progress of a run: finished rounds, then the stage of the round after them (a place in STAGES), and so on."""

    rounds: int
    stage: int
    generation: int
    survivors: int


def reached(names: Collection[str]) -> Reached:
    """The progress of a run that has these files."""
    finished = 0
    while f"rounds/{finished + 1}/survivors.parquet" in names:
        finished += 1
    start = f"rounds/{finished + 1}/"
    below = {name.removeprefix(start) for name in names if name.startswith(start)} or set(names)
    generations = [int(found[1]) for name in below if (found := _GENERATION.fullmatch(name)) and found[2] == "json"]
    survivors = sum(name.startswith("survivors/") for name in below)
    evidence = (
        True,
        "environment.json" in below,
        "baseline.safetensors" in below,
        bool(generations),
        bool(survivors),
        "survivors.parquet" in below,
    )
    stage = max(place for place, there in enumerate(evidence) if there)
    return Reached(finished, stage, max(generations, default=-1), survivors)


def write_order(name: str) -> tuple[int, int, int, str]:
    """Sorts files in the order in which a run writes them, whatever the clock says.

    Whatever speaks for other files comes after them: a generation's snapshot after its candidates, the table of
    survivors after everything that it names.
    """
    found = _ROUND.fullmatch(name)
    if found is None and name in _RANKS[:3]:  # a run of several rounds is set up before the first of them
        return 0, _RANKS.index(name), 0, name
    round_number, inner = (int(found[1]), found[2]) if found else (10_000, name)
    if inner in _RANKS:
        return round_number, _RANKS.index(inner), 0, inner
    if generation := _GENERATION.fullmatch(inner):
        return round_number, len(_RANKS), int(generation[1]), inner  # candidates/ before checkpoints/
    for rank, start in enumerate(_LATER_RANKS, len(_RANKS) + 1):
        if inner.startswith(start):
            return round_number, rank, 0, inner
    return round_number, len(_RANKS) + len(_LATER_RANKS) + 1, 0, inner


def is_own(name: str) -> bool:
    """Whether a file has a name of the run's. Files with other names, which somebody put there, are left alone."""
    found = _ROUND.fullmatch(name)
    return _OWN.fullmatch(found[2] if found else name) is not None


def order_of_changes(changed: Collection[str], removed: Collection[str]) -> list[tuple[str, bool]]:
    """The files to bring to a store, in order, each with whether it is put there (else it is removed there).

    Removals come first, from the latest file to the earliest, because what is put may say that they are gone. The state
    of a training goes last: until the trained network is there, it is all that the store has of it. With another config
    or another run it goes first as well, for it belongs to the one before.
    """
    anew = any(name.endswith(("config.yaml", "environment.json")) for name in changed)
    late = [] if anew else [name for name in removed if "training/" in name]
    early = sorted(set(removed) - set(late), key=write_order, reverse=True)
    puts = sorted(changed, key=write_order)
    return [(name, False) for name in early] + [(name, True) for name in puts] + [(name, False) for name in late]
