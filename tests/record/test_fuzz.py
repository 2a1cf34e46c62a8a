"""Thousands of forged files in a real run's folder: each is read as before or refused in one line, and runs no code."""

import copy
import json
import logging
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import evoprune as ep
from evoprune.config.loading import load_config, round_configs
from evoprune.criteria.preferences import Preferences
from evoprune.errors import UserError
from evoprune.pipeline.resuming import search_fingerprint
from evoprune.record import files
from evoprune.record.checkpoint import newest_state, restore_search
from evoprune.record.folder import RunFolder
from evoprune.record.json_files import read_environment, read_execution, read_identity
from evoprune.record.training_states import read_training_state
from evoprune.record.watch import watch
from evoprune.search.algorithms import make_algorithm
from evoprune.space.cost import cost
from evoprune.training.fit import FitState
from tests import tiny_runs
from tests.record.test_watch import Told, never
from tests.search.made_up import Counting, loop_for

SETTINGS = tiny_runs.BRIEF | {
    "model.network": "4C3-4C3-MP7-10",
    "space.kernels": True,
    "space.strides": True,
    "search.steady_state": True,
    "search.cost": "latency_ms",
    "search.generations": 2,
    "search.population": 8,
    "retrain.survivors": 2,
    "retrain.epochs": 1,
}
IMAGES = 50
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 255, 2**31, 2**63, 10**12, 2**200, -0.5, 0.5, 1e308, "", "x", "0", "00"),
    *("f" * 16, "\x1b[2J", "../../evil", "a\nb", "9" * 5000, [], {}, [[]], [0], ["x"], {"a": 1}, [[1, 2]], [0] * 1000),
]


# --- the run, and everything that reads it


@dataclass(frozen=True)
class Target:
    """A run folder whose files are forged, one at a time, and put back."""

    folder: RunFolder
    contents: dict[Path, bytes]
    outcomes: Counter[str] = field(default_factory=Counter)

    def try_out(self, path: Path, data: bytes) -> None:
        """Everything that is read of a run, with other bytes in one file. Raises what is no UserError of one line."""
        path.write_bytes(data)
        try:
            refusal = self._refusal(path)
        finally:
            path.write_bytes(self.contents[path])
        assert refusal is None or (refusal.isprintable() and len(refusal) < 2000)
        self.outcomes["read" if refusal is None else "refused"] += 1
        assert {each for each in self.folder.root.rglob("*") if each.is_file()} == self.contents.keys()

    def _refusal(self, path: Path) -> str | None:
        try:
            place = path.relative_to(self.folder.root).parts[0]
            for read in READERS_OF.get(place, (read_small_files,)):
                read(self.folder)
        except UserError as error:
            return str(error)
        return None


def read_small_files(folder: RunFolder) -> None:
    read_environment(folder)
    read_execution(folder)
    read_identity(folder)
    load_config(folder.config)


def read_candidates(folder: RunFolder) -> None:
    run = ep.load_run(folder.root)
    for frame in (run.candidates, run.generations, run.kept_by_generation):
        check_texts(frame)


def read_survivors(folder: RunFolder) -> None:
    run = ep.load_run(folder.root)
    for frame in (run.survivors, run.layers, run.stride_masks, ep.load_runs(folder.root)):
        check_texts(frame)


def check_texts(frame: pd.DataFrame) -> None:
    """Texts have no control characters."""
    for name in frame.select_dtypes(["str", "string"]):
        assert all(text.isprintable() for text in frame[name].dropna())


def read_networks(folder: RunFolder) -> None:
    run = ep.load_run(folder.root)
    for key in run.survivors["key"]:
        run.load_survivor(key)
        run.survivor_masks(key)
        read_training_state(folder, key)
    run.load_baseline()


def watch_it(folder: RunFolder) -> None:
    watch(folder.root, Told(), never)


def go_on_with_the_search(folder: RunFolder) -> None:
    run = ep.load_run(folder.root)
    [config] = round_configs(run.config)
    space = run.space
    snapshot, candidates = newest_state(folder, search_fingerprint(config, space), space, IMAGES)
    assert snapshot is not None
    search = config.search.model_copy(update={"cost": "macs", "generations": 3})
    workers = Counting(space, np.ones(space.genes, bool), images=IMAGES)
    preferences = Preferences(
        np.zeros(space.maps),
        tuple(np.zeros(part.size) for part in space.kernels),
        tuple(np.zeros((part.size, len(part.table))) for part in space.strides),
        np.zeros(space.maps),
    )
    rng = np.random.default_rng(0)
    algorithm = make_algorithm(space, search, preferences, lambda genome: float(cost(space, genome).macs), rng)
    loop = loop_for(algorithm, workers, search)
    restore_search(folder, loop, algorithm, snapshot, candidates)
    if loop.has_next():
        loop.next()


READERS: Sequence[Callable[[RunFolder], None]] = (
    read_small_files,
    read_candidates,
    read_survivors,
    read_networks,
    watch_it,
    go_on_with_the_search,
)
READERS_OF: Mapping[str, Sequence[Callable[[RunFolder], None]]] = {
    "candidates": (read_candidates, watch_it, go_on_with_the_search),
    "checkpoints": (go_on_with_the_search,),
    "survivors": (read_networks,),
    "training": (read_networks,),
    "baseline.safetensors": (read_networks,),
    "survivors.parquet": (read_survivors, read_networks),
    "layers.parquet": (read_survivors,),
    "space.json": (read_candidates, read_survivors, read_networks, go_on_with_the_search),
    "latency.json": (read_candidates, watch_it),
}
"""What reads a file or a sub-folder; the small files, where nothing stands here."""


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings of damaged files are many here."""
    caplog.set_level(logging.ERROR)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    root = tiny_runs.run(tmp_path_factory.mktemp("fuzz") / "run", SETTINGS).root
    folder = RunFolder(root)
    [key, *_] = folder.survivor_keys()
    files.write_tensors(folder.training(key), FitState.before(torch.nn.Linear(2, 2)).tensors, {"epoch": "1"})
    found = Target(folder, {path: path.read_bytes() for path in root.rglob("*") if path.is_file()})
    for read in READERS:  # what is refused below is refused for what was forged
        read(folder)
    return found


# --- ways to forge a file


def forged(draw: Any, path: Path, data: bytes) -> bytes:
    """Other bytes for a file: some of them changed, or another content and the checksum that fits."""
    ways = {".json": forged_json, ".parquet": forged_table, ".safetensors": forged_tensors}
    if path.suffix in ways and draw(st.integers(0, 3)):
        return ways[path.suffix](draw, path, data) or with_other_bytes(draw, data)
    return with_other_bytes(draw, data)


def with_other_bytes(draw: Any, data: bytes) -> bytes:
    place = int(draw(st.floats(0, 1, exclude_max=True)) * len(data)) if data else 0
    match draw(st.sampled_from(["flip", "cut", "insert", "empty", "repeat"])):
        case "flip":
            return data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :] if data else b"x"
        case "cut":
            return data[:place]
        case "insert":
            return data[:place] + draw(st.binary(min_size=1, max_size=20)) + data[place:]
        case "repeat":
            return data + data
    return b""


def changed(draw: Any, value: Any) -> Any:
    """JSON data with one place of it changed, removed, added or exchanged for another one."""
    value = copy.deepcopy(value)
    inner: Any = value
    places: list[tuple[Any, Any]] = []
    while isinstance(inner, dict | list) and inner and (not places or draw(st.integers(0, 3))):
        keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
        places.append((inner, draw(st.sampled_from(keys))))
        inner = inner[places[-1][1]]
    if not places:
        return draw(st.sampled_from(ODD))
    outer, key = places[-1]
    match draw(st.sampled_from(["change", "change", "drop", "add", "nudge", "repeat", "whole"])):
        case "change":
            outer[key] = draw(st.sampled_from(ODD))
        case "drop":
            del outer[key]
        case "add":
            new = draw(st.sampled_from(ODD))
            outer.insert(key, new) if isinstance(outer, list) else outer.update({"more": new})
        case "nudge":
            number = isinstance(inner, int | float) and not isinstance(inner, bool)
            outer[key] = inner + draw(st.sampled_from([-1, 1, 7, 1000])) if number else [inner]
        case "repeat":
            outer[key] = inner * 2 if isinstance(inner, list | str) else {"again": inner}
        case "whole":
            value = draw(st.sampled_from(ODD))
    return value


def forged_json(draw: Any, path: Path, data: bytes) -> bytes:
    content = json.dumps(changed(draw, json.loads(data)["content"]), separators=(",", ":"))
    checksum = files._sha256(content.encode())
    return f'{{"sha256":"{checksum}","content":{content}}}\n'.encode()


def forged_table(draw: Any, path: Path, data: bytes) -> bytes | None:
    frame = files.read_parquet([path]).astype(object)
    name = draw(st.sampled_from(list(frame)))
    row = draw(st.integers(0, len(frame) - 1))
    match draw(st.sampled_from(["cell", "cell", "cell", "column", "drop", "rename", "rows", "none", "twice", "mix"])):
        case "cell":
            frame[name] = [draw(st.sampled_from(ODD)) if n == row else v for n, v in enumerate(frame[name])]
        case "column":
            frame[name] = [draw(st.sampled_from(ODD))] * len(frame)
        case "drop":
            frame = frame.drop(columns=name)
        case "rename":
            frame = frame.rename(columns={name: draw(st.sampled_from(["other", "key", "generation", "\x1b[2J"]))})
        case "rows":
            frame = frame.drop(index=row)
        case "none":
            frame = frame[:0]
        case "twice":
            frame = pd.concat([frame, frame])
        case "mix":
            frame[name] = list(reversed(frame[name].tolist()))
    forged = path.with_name("forged.parquet")
    try:
        files.write_parquet(forged, frame)
        return forged.read_bytes()
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None  # no table can hold that
    finally:
        forged.unlink(missing_ok=True)


def forged_tensors(draw: Any, path: Path, data: bytes) -> bytes | None:
    size = struct.unpack("<Q", data[:8])[0]
    if draw(st.booleans()):
        header = json.dumps(changed(draw, json.loads(data[8 : 8 + size]))).encode()
        return struct.pack("<Q", len(header)) + header + data[8 + size :]
    tensors, metadata = files.read_tensors(path)
    name = draw(st.sampled_from(sorted(tensors)))
    match draw(st.sampled_from(["drop", "type", "shape", "rename", "none", "metadata", "nan"])):
        case "drop":
            del tensors[name]
        case "type":
            tensors[name] = tensors[name].to(draw(st.sampled_from([torch.int64, torch.float16, torch.bool])))
        case "shape":
            tensors[name] = tensors[name].reshape(-1).repeat(draw(st.integers(1, 3)))
        case "rename":
            tensors["other"] = tensors.pop(name)
        case "none":
            tensors = {}
        case "nan":
            tensors[name] = torch.full_like(tensors[name].float(), float("nan"))
        case "metadata":
            other = changed(draw, metadata)
            texts = other.items() if isinstance(other, dict) else [("epoch", other)]
            metadata = {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in texts}
    forged = path.with_name("forged.safetensors")
    try:
        files.write_tensors(forged, tensors, metadata)
        return forged.read_bytes()
    finally:
        forged.unlink(missing_ok=True)


def try_cases(target: Target, count: int) -> None:
    paths = sorted(path for path in target.contents if path.name != "lock")
    target.outcomes.clear()

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(data=st.data())
    def cases(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(paths))
        target.try_out(path, forged(data.draw, path, target.contents[path]))

    cases()
    print(f"{target.outcomes.total()} hostile inputs tried and harmless: {dict(target.outcomes)}")
    assert target.outcomes.total() >= count
    assert target.outcomes["refused"] > count / 4  # most of what is forged is noticed


def test_a_hundred_forged_files(target: Target) -> None:
    try_cases(target, 100)


@pytest.mark.slow
def test_two_thousand_forged_files(target: Target) -> None:
    try_cases(target, 2000)
