"""Which side of a stored run is newer, and in what order its files go to the store."""

import random

import pytest
from pydantic import ValidationError

from evoprune.record.manifest import (
    FileEntry,
    Manifest,
    Reached,
    Side,
    is_own,
    newer_side,
    order_of_changes,
    parsed,
    reached,
    write_order,
)

IN_ORDER = [
    "environment.json",
    "identity.json",
    "config.yaml",
    "rounds/1/environment.json",
    "rounds/1/config.yaml",
    "rounds/1/baseline.safetensors",
    "rounds/1/candidates/gen-0000.parquet",
    "rounds/1/survivors.parquet",
    "rounds/2/config.yaml",
    "training/baseline.safetensors",
    "rewind.safetensors",
    "baseline.safetensors",
    "space.json",
    "latency.json",
    "cost.json",
    "execution.json",
    "candidates/gen-0000.parquet",
    "checkpoints/gen-0000.json",
    "candidates/gen-0001.parquet",
    "checkpoints/gen-0001.json",
    "checkpoints/gen-10000.json",
    "training/ab12.safetensors",
    "survivors/ab12.safetensors",
    "layers.parquet",
    "survivors.parquet",
    "plots/front.png",
    "report.html",
    "notes-of-the-user.txt",
]


def test_files_go_in_the_order_in_which_a_run_writes_them() -> None:
    shuffled = random.Random(0).sample(IN_ORDER, len(IN_ORDER))
    assert sorted(shuffled, key=write_order) == IN_ORDER
    assert [name for name in IN_ORDER if not is_own(name)] == ["plots/front.png", "notes-of-the-user.txt"]


def test_removals_come_before_the_files_that_imply_them() -> None:
    puts = ["checkpoints/gen-0001.json", "candidates/gen-0001.parquet", "survivors/ab.safetensors"]
    gone = ["layers.parquet", "survivors.parquet", "training/ab.safetensors"]
    assert order_of_changes(puts, gone) == [
        ("survivors.parquet", False),
        ("layers.parquet", False),
        ("candidates/gen-0001.parquet", True),
        ("checkpoints/gen-0001.json", True),
        ("survivors/ab.safetensors", True),
        ("training/ab.safetensors", False),
    ]
    assert order_of_changes(["config.yaml"], ["training/ab.safetensors"]) == [
        ("training/ab.safetensors", False),
        ("config.yaml", True),
    ]


STATES = {
    (): Reached(0, 0, -1, 0),
    ("environment.json", "config.yaml"): Reached(0, 1, -1, 0),
    ("environment.json", "baseline.safetensors"): Reached(0, 2, -1, 0),
    ("environment.json", "checkpoints/gen-0007.json", "candidates/gen-0008.parquet"): Reached(0, 3, 7, 0),
    ("checkpoints/gen-0007.json", "survivors/ab.safetensors"): Reached(0, 4, 7, 1),
    ("checkpoints/gen-0007.json", "survivors/ab.safetensors", "survivors.parquet"): Reached(0, 5, 7, 1),
    ("environment.json", "rounds/1/checkpoints/gen-0003.json"): Reached(0, 3, 3, 0),
    ("environment.json", "rounds/1/survivors.parquet"): Reached(1, 1, -1, 0),
}


@pytest.mark.parametrize(("names", "state"), STATES.items())
def test_the_progress_of_a_run(names: tuple[str, ...], state: Reached) -> None:
    assert reached(names) == state
    assert list(STATES.values())[:6] == sorted(list(STATES.values())[:6])


def entry(content: str) -> FileEntry:
    return FileEntry(sha256=f"{abs(hash(content)):064x}", size=len(content))


def run(generations: int, config: str = "config", environment: str = "a") -> dict[str, FileEntry]:
    names = [
        name for n in range(generations) for name in (f"candidates/gen-{n:04}.parquet", f"checkpoints/gen-{n:04}.json")
    ]
    return {"environment.json": entry(environment), "config.yaml": entry(config)} | {
        name: entry(name) for name in names
    }


def manifest(files: dict[str, FileEntry], counter: int, token: str, parent: str = "") -> Manifest:
    return Manifest(counter=counter, token=token, parent=parent, files=files)


BASE = manifest(run(2), 2, "two", "one")
OURS = {"here": run(4), "base": BASE}  # two generations that the store never had
UNCHANGED = {"here": run(2), "base": BASE}
CASES: dict[str, tuple[dict, Manifest | None, Side]] = {
    "nothing here": ({"here": {}, "base": None}, BASE, Side.store),
    "nothing there": (OURS, None, Side.copy),
    "as they parted": (UNCHANGED, BASE, Side.copy),
    "we went on": (OURS, BASE, Side.copy),
    "they went on": (UNCHANGED, manifest(run(3), 3, "three", "two"), Side.store),
    "they went on, and we further": (OURS, manifest(run(3), 3, "three", "two"), Side.copy),
    "we went on, and they further": (OURS, manifest(run(5), 5, "five"), Side.store_and_keep_copy),
    "both as far": (OURS, manifest(run(4) | {"x": entry("")}, 4, "four"), Side.store_and_keep_copy),
    "both the same": (OURS, manifest(run(4), 4, "four"), Side.copy),
    "another config there": (OURS, manifest(run(3, config="other"), 3, "three"), Side.store_and_keep_copy),
    "another run there": (OURS, manifest(run(1, environment="b"), 9, "nine"), Side.store_and_keep_copy),
    "another run there, and nothing new here": (
        UNCHANGED,
        manifest(run(1, environment="b"), 9, "nine"),
        Side.store_and_keep_copy,
    ),
    "our manifest did not arrive": ({"here": run(2), "base": BASE}, manifest(run(1), 1, "one"), Side.copy),
    "overwritten here, and that did not arrive": (
        {"here": run(1, environment="b"), "base": manifest(run(1, environment="b"), 2, "two", "one")},
        manifest(run(3), 1, "one"),
        Side.copy,
    ),
    "an older state was put back there": (UNCHANGED, manifest(run(1), 1, "elder"), Side.copy),
    "only half a set-up there": (OURS, Manifest(files={"environment.json": entry("a")}), Side.copy),
    "files without a manifest, of our first push": ({"here": run(1), "base": None}, Manifest(files=run(1)), Side.copy),
    "files without a manifest, of another run": (
        OURS,
        Manifest(files=run(9, environment="b")),
        Side.store_and_keep_copy,
    ),
}


@pytest.mark.parametrize(("ours", "there", "side"), CASES.values(), ids=CASES)
def test_the_side_that_a_run_goes_on_from(ours: dict, there: Manifest | None, side: Side) -> None:
    sizes = {} if there is None else {name: entry.size for name, entry in there.files.items()}
    assert newer_side(ours["base"], ours["here"], there, sizes) is side


def test_a_push_that_another_machine_did_not_end_is_taken() -> None:
    sizes = {name: entry.size for name, entry in run(3).items()}
    assert newer_side(BASE, run(2), BASE, sizes) is Side.store
    assert newer_side(BASE, run(4), BASE, sizes) is Side.copy


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"counter": -1}', b'{"counter": "1"}', b'{"files": {"a": 1}}', b"\xff"]
)
def test_other_bytes_are_no_manifest(data: bytes) -> None:
    assert parsed(data) is None
    assert parsed(None) is None


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert parsed(BASE.model_dump_json().encode()) == BASE
    with pytest.raises(ValidationError):
        FileEntry(sha256="abc", size=1)
