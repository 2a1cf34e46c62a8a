"""Somebody else's run folders and weights: an error of one line, and none of their code is run."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.errors import ConfigError, UserError
from evoprune.networks.weight_files import read_weights
from evoprune.record import files
from evoprune.record.folder import RunFolder
from tests import tiny_runs


class Bomb:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._trace),)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """The file that a pickle bomb would write; no test reads it."""
    return tmp_path / "exploded"


@pytest.fixture
def folder(tiny_run: ep.Run, tmp_path: Path) -> RunFolder:
    copy = RunFolder(tmp_path / "theirs")
    shutil.copytree(tiny_run.root, copy.root)
    return copy


def read_everything(folder: RunFolder) -> None:
    """The results that a reader of a run looks at."""
    run = ep.load_run(folder.root)
    assert run.config.name
    assert len(run.candidates) * len(run.generations) * len(run.survivors)
    run.layers  # noqa: B018
    run.kept_by_generation  # noqa: B018
    for key in run.survivors["key"]:
        run.load_survivor(key)
    run.load_baseline()


# --- weights


def pickled(value: object) -> bytes:
    return pickle.dumps(value)


def torch_saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


WEIGHTS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "a pickle": (".pt", lambda trace: pickled(Bomb(trace))),
    "a pickle as torch saves it": (".pt", lambda trace: torch_saved(Bomb(trace))),
    "a pickle among tensors": (".pt", lambda trace: torch_saved({"a": torch.ones(1), "b": Bomb(trace)})),
    "a whole network": (".pt", lambda trace: torch_saved(torch.nn.Linear(2, 2))),
    "no tensors": (".pt", lambda trace: torch_saved({"a": 1})),
    "a list": (".pt", lambda trace: torch_saved([torch.ones(1)])),
    "a name that is no text": (".pt", lambda trace: torch_saved({1: torch.ones(1)})),
    "a zip of something": (".pt", lambda trace: zipped("../../evil", b"x")),
    "a zip with a pickle": (".pt", lambda trace: zipped("archive/data.pkl", pickled(Bomb(trace)))),
    "nothing": (".pt", lambda trace: b""),
    "nothing, as safetensors": (".safetensors", lambda trace: b""),
    "a pickle, as safetensors": (".safetensors", lambda trace: pickled(Bomb(trace))),
    "a header of 2^63 bytes": (".safetensors", lambda trace: struct.pack("<Q", 2**63) + b"{}"),
    "a header that is no JSON": (".safetensors", lambda trace: safetensors(b"[" * 1000)),
    "a header that is a list": (".safetensors", lambda trace: safetensors([1])),
    "a tensor of 2^60 numbers": (".safetensors", lambda trace: safetensors(tensor([2**30, 2**30], [0, 4]), b"abcd")),
    "a size that overflows": (".safetensors", lambda trace: safetensors(tensor([2**63, 4], [0, 0]))),
    "a size below zero": (".safetensors", lambda trace: safetensors(tensor([-1], [0, 4]), b"abcd")),
    "offsets beyond the file": (".safetensors", lambda trace: safetensors(tensor([1], [0, 2**40]), b"abcd")),
    "offsets backwards": (".safetensors", lambda trace: safetensors(tensor([1], [4, 0]), b"abcd")),
    "an unknown type": (".safetensors", lambda trace: safetensors(tensor([1], [0, 4], "PICKLE"), b"abcd")),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(case: str, trace: Path, tmp_path: Path) -> None:
    suffix, make = WEIGHTS[case]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(make(trace))
    with pytest.raises(UserError, match=r"model\.weights") as error:
        read_weights(path)
    assert "\n" not in str(error.value)
    assert not trace.exists()


def test_weights_with_paths_for_names_fit_no_network(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"../../evil": torch.ones(1)}, path)
    config = tiny_runs.config(tiny_runs.BRIEF | {"model.weights": str(path)})
    with pytest.raises(UserError, match=r"has no tensor|has a tensor"):
        ep.run(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- run folders


def rewritten(path: Path, change: Callable[[Any], None]) -> None:
    """A JSON file with something else in it, and the checksum that goes with that."""
    content = files.read_json(path)
    change(content)
    files.write_json(path, content)


def with_key(folder: RunFolder, key: str) -> None:
    """Tables that call the first survivor by another key."""
    survivors = files.read_parquet([folder.survivors_table])
    old = survivors["key"].iloc[0]
    survivors["key"] = survivors["key"].replace(old, key)
    files.write_parquet(folder.survivors_table, survivors)
    for generation in folder.candidate_generations():
        frame = files.read_parquet([folder.candidates(generation)])
        frame["key"] = frame["key"].replace(old, key)
        files.write_parquet(folder.candidates(generation), frame)


def with_genome(folder: RunFolder, genome: bytes) -> None:
    for generation in folder.candidate_generations():
        frame = files.read_parquet([folder.candidates(generation)])
        frame["genome"] = [genome] * len(frame)
        files.write_parquet(folder.candidates(generation), frame.astype({"genome": "object"}))


def huge_shapes(space: Any) -> None:
    for layer in space["layers"]:
        layer["shape"] = [2**40 for _ in layer["shape"]]
    for info in space["tensors"]:
        info["shape"] = [2**40 for _ in info["shape"]]


def far_genes(space: Any) -> None:
    space["axes"][0]["gene"][0] = 2**31 - 1


def with_survivor(folder: RunFolder, data: bytes) -> None:
    for path in (folder.root / "survivors").iterdir():
        path.write_bytes(data)


FOLDERS: dict[str, Callable[[RunFolder, Path], object]] = {
    "a key that leads out": lambda folder, trace: with_key(folder, "../../evil"),
    "a key that is a place": lambda folder, trace: with_key(folder, "/etc/passwd"),
    "a genome that is too short": lambda folder, trace: with_genome(folder, b""),
    "a genome that is too long": lambda folder, trace: with_genome(folder, b"\x01" * 100_000),
    "a genome of numbers that no gene has": lambda folder, trace: with_genome(folder, b"\xff" * 28),
    "a space of huge shapes": lambda folder, trace: rewritten(folder.space, huge_shapes),
    "genes that are not there": lambda folder, trace: rewritten(folder.space, far_genes),
    "a space without axes": lambda folder, trace: rewritten(folder.space, lambda space: space["axes"].clear()),
    "a space that is a list": lambda folder, trace: files.write_json(folder.space, []),
    "a space that is a pickle": lambda folder, trace: folder.space.write_bytes(pickled(Bomb(trace))),
    "survivors that are pickles": lambda folder, trace: with_survivor(folder, pickled(Bomb(trace))),
    "survivors as torch saves them": lambda folder, trace: with_survivor(folder, torch_saved(Bomb(trace))),
    "a survivor of 2^60 numbers": lambda folder, trace: with_survivor(
        folder, safetensors(tensor([2**60], [0, 4]), b"abcd")
    ),
    "a table that is a pickle": lambda folder, trace: folder.survivors_table.write_bytes(pickled(Bomb(trace))),
    "candidates that are pickles": lambda folder, trace: folder.candidates(1).write_bytes(pickled(Bomb(trace))),
    "a baseline that is a pickle": lambda folder, trace: folder.baseline.write_bytes(pickled(Bomb(trace))),
    "a config that makes objects": lambda folder, trace: folder.config.write_text(
        f"name: !!python/object/apply:os.mkdir [{trace}]\n"
    ),
    "a config that is a pickle": lambda folder, trace: folder.config.write_bytes(pickled(Bomb(trace))),
    "a config that grows": lambda folder, trace: folder.config.write_text(
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{c}: &{c} [{','.join(['*' + chr(ord(c) - 1)] * 9)}]\n" for c in "bcdefghi")
    ),
    "a network of 10^18 weights": lambda folder, trace: folder.config.write_text(
        folder.config.read_text().replace(tiny_runs.NETWORK, "999999999C3-999999999C3-10")
    ),
    "a network that is code": lambda folder, trace: folder.config.write_text(
        folder.config.read_text().replace(tiny_runs.NETWORK, "os:getcwd")
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_was_tampered_with(case: str, folder: RunFolder, trace: Path) -> None:
    FOLDERS[case](folder, trace)
    with pytest.raises(UserError) as error:
        read_everything(folder)
    assert "\n" not in str(error.value)
    assert not trace.exists()


def test_the_folder_itself_is_read(folder: RunFolder) -> None:
    """The refusals above come from the changes made there."""
    read_everything(folder)


CODE = {
    "data.dataset": ("dataset: mnist5k", "dataset: theirs.evil:go"),
    "model.network": (f"network: {tiny_runs.NETWORK}", "network: theirs.evil:go"),
    "workers.address": ("address: null", "address: evil.example:6379"),
}


@pytest.mark.parametrize("key", CODE)
def test_no_code_of_a_folder_is_run(
    key: str, folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a module that lies in it, nor a cluster that would answer with pickles."""
    monkeypatch.chdir(tmp_path)
    (folder.root / "evil.py").write_text("open('exploded', 'w')\ndef go(): pass\n")
    before, after = CODE[key]
    text = folder.config.read_text()
    assert before in text
    folder.config.write_text(text.replace(before, after))
    files.remove([folder.survivors_table])
    value = after.partition(": ")[2]
    with pytest.raises(ConfigError, match=rf"{key} is {value}, which would .* name it again: --set {key}="):
        ep.resume(folder.root)
    result = CliRunner().invoke(app, ["resume", str(folder.root)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert not (tmp_path / "exploded").exists()


def test_exporting_runs_no_code_of_a_folder(folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder.root / "evil.py").write_text("open('exploded', 'w')\ndef go(): pass\n")
    folder.config.write_text(folder.config.read_text().replace(*CODE["data.dataset"]))
    result = CliRunner().invoke(app, ["export", str(folder.root)])
    assert result.exit_code == 0  # without the images, which only code would give
    assert not (tmp_path / "exploded").exists()


def test_reports_escape_markup(folder: RunFolder) -> None:
    """A tag in a table is text in the report."""
    script = "<script>alert(1)</script>"
    survivors = files.read_parquet([folder.survivors_table])
    files.write_parquet(folder.survivors_table, survivors.assign(weights=script, note=script))
    rewritten(folder.environment, lambda found: found.update(cpu=script, platform=script))
    result = CliRunner().invoke(app, ["report", str(folder.root)])
    assert result.exit_code == 0, result.stderr
    assert "alert(1)" not in folder.report.read_text() or "&lt;script&gt;alert(1)" in folder.report.read_text()
    assert script not in folder.report.read_text()


def test_nothing_in_the_package_reads_pickles() -> None:
    forbidden = (
        "import pickle\n",
        "from pickle",
        "pickle.load",
        "Unpickler",
        "read_pickle",
        "unsafe_load",
        "FullLoader",
        "UnsafeLoader",
        "allow_pickle=True",
        "weights_only=False",
    )
    for path in Path(ep.__file__).parent.rglob("*.py"):
        text = path.read_text()
        assert not any(word in text for word in forbidden), path
