import errno
import json
import os
from pathlib import Path
from typing import IO

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evoprune.errors import RunFolderError
from evoprune.record import files
from evoprune.record.files import DamagedFileError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def fail_with(number: int):
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return failing


class TestWriting:
    def test_replaces_the_old_content(self, tmp_path: Path) -> None:
        files.write_text(tmp_path / "a.txt", "old")
        files.write_text(tmp_path / "a.txt", "new")
        assert (tmp_path / "a.txt").read_text() == "new"
        assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]

    def test_makes_the_folder(self, tmp_path: Path) -> None:
        files.write_bytes(tmp_path / "deep" / "er" / "a", b"\x00")
        assert (tmp_path / "deep" / "er" / "a").read_bytes() == b"\x00"

    @pytest.mark.parametrize("operation", ["replace", "fsync"])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
    def test_a_failure_leaves_the_old_file_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, number: int
    ) -> None:
        path = tmp_path / "a.json"
        files.write_json(path, {"state": 1})
        monkeypatch.setattr(os, operation, fail_with(number))
        with pytest.raises(RunFolderError, match=r"a\.json cannot be written"):
            files.write_json(path, {"state": 2})
        assert files.read_json(path) == {"state": 1}
        assert list(tmp_path.iterdir()) == [path]

    def test_a_full_disk_leaves_the_old_file_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("needs /dev/full")
        path = tmp_path / "a.txt"
        files.write_text(path, "old")
        real_open = Path.open

        def open_on_full_disk(path: Path, mode: str) -> IO[bytes]:
            real_open(path, mode).close()
            return real_open(Path("/dev/full"), "wb")

        monkeypatch.setattr(Path, "open", open_on_full_disk)
        with pytest.raises(RunFolderError, match=r"No space left.*make space.*evoprune resume"):
            files.write_text(path, "new")
        monkeypatch.undo()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_an_interruption_leaves_nothing_half_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            files.write_text(tmp_path / "a.txt", "new")
        assert list(tmp_path.iterdir()) == []

    def test_messages_are_one_line_with_a_remedy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "replace", fail_with(errno.EROFS))
        with pytest.raises(RunFolderError, match="another folder with --out") as caught:
            files.write_text(tmp_path / "a.txt", "new")
        assert "\n" not in str(caught.value)

    def test_a_file_in_the_way_of_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("mine")
        with pytest.raises(RunFolderError, match="cannot be written"):
            files.write_text(tmp_path / "taken" / "a.txt", "new")
        assert (tmp_path / "taken").read_text() == "mine"


class TestJson:
    @given(value=JSON_VALUES)
    def test_comes_back_exactly(self, tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
        path = tmp_path_factory.mktemp("json") / "a.json"
        files.write_json(path, value)
        assert repr(files.read_json(path)) == repr(value)

    def test_holds_the_integers_of_a_generator_state(self, tmp_path: Path) -> None:
        files.write_json(tmp_path / "a.json", {"state": 2**127 + 1})
        assert files.read_json(tmp_path / "a.json") == {"state": 2**127 + 1}

    def test_is_plain_json_for_others(self, tmp_path: Path) -> None:
        files.write_json(tmp_path / "a.json", {"mcr": 0.1})
        assert json.loads((tmp_path / "a.json").read_text())["content"] == {"mcr": 0.1}

    def test_refuses_values_that_json_lacks(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            files.write_json(tmp_path / "a.json", float("nan"))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"content":1}', "[" * 100_000, "\x00"])
    def test_names_a_damaged_file(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(DamagedFileError, match=r"a\.json is damaged"):
            files.read_json(tmp_path / "a.json")

    def test_every_truncation_is_noticed(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        files.write_json(path, {"a": [1, 2]})
        whole = path.read_bytes()
        for length in range(len(whole) - 1):  # the last byte is the line's end
            path.write_bytes(whole[:length])
            with pytest.raises(DamagedFileError):
                files.read_json(path)

    def test_an_altered_number_is_noticed(self, tmp_path: Path) -> None:
        files.write_json(tmp_path / "a.json", {"errors": 17})
        (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace("17", "18"))
        with pytest.raises(DamagedFileError, match="checksum differs"):
            files.read_json(tmp_path / "a.json")

    def test_a_missing_file_is_not_called_damaged(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match="No such file") as caught:
            files.read_json(tmp_path / "a.json")
        assert not isinstance(caught.value, DamagedFileError)


class TestParquet:
    def test_rows_come_in_the_order_of_the_files(self, tmp_path: Path) -> None:
        paths = [tmp_path / name for name in ("b", "a", "c")]
        for number, path in enumerate(paths):
            files.write_parquet(path, pd.DataFrame({"n": [2 * number, 2 * number + 1], "m": [0, 0]}))
        assert files.read_parquet(paths)["n"].tolist() == [0, 1, 2, 3, 4, 5]
        assert list(files.read_parquet(paths, columns=["n"])) == ["n"]

    @pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
    def test_names_the_damaged_file(self, tmp_path: Path, damage: str) -> None:
        paths = [tmp_path / "good.parquet", tmp_path / "bad.parquet"]
        for path in paths:
            files.write_parquet(path, pd.DataFrame({"n": range(1000)}))
        whole = paths[1].read_bytes()
        broken = {"truncated": whole[:-20], "flipped": whole[:200] + b"\xff\x00" + whole[202:], "empty": b""}
        paths[1].write_bytes(broken[damage])
        with pytest.raises(DamagedFileError, match=r"bad\.parquet is damaged"):
            files.read_parquet(paths)

    @given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def test_no_flipped_bit_changes_a_value(
        self, place: float, bit: int, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Also not in the file's description of itself, which has no checksum of its own."""
        path = tmp_path_factory.mktemp("flipped") / "a.parquet"
        frame = pd.DataFrame({"key": ["a", "b"] * 20, "errors": range(40), "mcr": [0.5, None] * 20})
        files.write_parquet(path, frame)
        before, data = files.read_parquet([path]), bytearray(path.read_bytes())
        data[int(place * len(data))] ^= 1 << bit
        path.write_bytes(data)
        try:
            after = files.read_parquet([path])
        except DamagedFileError:
            return
        assert repr(after.to_dict()) == repr(before.to_dict())

    def test_names_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match=r"none\.parquet cannot be read: No such file"):
            files.read_parquet([tmp_path / "none.parquet"])


class TestTensors:
    def test_come_back_bit_by_bit(self, tmp_path: Path) -> None:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(4, 3, 2, 2, generator=generator)
        tensors = {
            "weight": weight,
            "half": weight.bfloat16(),
            "channels_last": weight.to(memory_format=torch.channels_last),
            "view": weight[1:],
            "shared": weight,
            "nan": torch.tensor([float("nan"), float("inf")]),
            "batches": torch.tensor(7),
            "none": torch.empty(0, 3),
            "mask": torch.tensor([True, False]),
        }
        files.write_tensors(tmp_path / "a.safetensors", tensors, {"classes": "10"})
        read, metadata = files.read_tensors(tmp_path / "a.safetensors")
        assert metadata == {"classes": "10"}
        assert set(read) == set(tensors)
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(torch.nan_to_num(read[name]), torch.nan_to_num(tensor)), name

    def test_parameters_are_stored_without_their_gradients(self, tmp_path: Path) -> None:
        files.write_tensors(tmp_path / "a", torch.nn.Linear(2, 1).state_dict(keep_vars=True), {})
        read, _ = files.read_tensors(tmp_path / "a")
        assert not read["weight"].requires_grad

    def test_notice_every_kind_of_damage(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        files.write_tensors(path, {"weight": torch.ones(8)}, {"genome": "[1,0]"})
        whole = path.read_bytes()
        for broken in (
            b"",
            whole[:5],
            whole[:-1],
            whole[:-1] + b"\x01",
            whole.replace(b"[1,0]", b"[1,1]"),
            b"\xff" * 8 + whole[8:],
            b"\x80\x04K\x01.",
        ):
            path.write_bytes(broken)
            with pytest.raises(DamagedFileError, match=r"a\.safetensors is damaged"):
                files.read_tensors(path)


def test_remove_ignores_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    files.remove([tmp_path / "a", tmp_path / "b"])
    assert list(tmp_path.iterdir()) == []
