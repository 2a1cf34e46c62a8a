from pathlib import Path

import pytest

from evoprune.errors import RunFolderError
from evoprune.record import files
from evoprune.record.environment import environment
from evoprune.record.folder import RunFolder
from evoprune.record.housekeeping import clear, create


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run just set up."""
    folder = RunFolder(tmp_path / "results" / "run")
    create(folder)
    files.write_text(folder.config, "name: run\n")
    return folder


def test_names_of_generations_sort_and_read_back(folder: RunFolder) -> None:
    for generation in (10_000, 7, 0):
        folder.snapshot(generation).touch()
        folder.candidates(generation).touch()
    (folder.root / "checkpoints" / "gen-0007.json.bak").touch()
    assert folder.snapshot(7).name == "gen-0007.json"
    assert folder.candidates(7).name == "gen-0007.parquet"
    assert folder.snapshot_generations() == [0, 7, 10_000]
    assert folder.candidate_generations() == [0, 7, 10_000]


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/b", "", "a.b", "a\n"])
def test_a_key_that_is_no_file_name_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(RunFolderError, match="names no network"):
        RunFolder(tmp_path).survivor(key)


class TestCreate:
    def test_the_folder_is_a_run_once_it_has_a_config(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path / "run")
        assert not folder.holds_run()
        create(folder)
        assert not folder.holds_run()
        files.write_text(folder.config, "name: run\n")
        assert folder.holds_run()

    def test_again_changes_nothing_but_sweeps_up(self, folder: RunFolder) -> None:
        before = folder.environment.read_bytes()
        leftover = folder.root / "checkpoints" / f".gen-0001.json.0a1b2c3d{files.TEMPORARY_SUFFIX}"
        leftover.touch()
        create(folder)
        assert folder.environment.read_bytes() == before
        assert not leftover.exists()

    def test_refuses_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("mine")
        with pytest.raises(RunFolderError, match="cannot be written"):
            create(RunFolder(tmp_path / "run"))

    def test_refuses_a_folder_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(dir: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
        with pytest.raises(RunFolderError, match="Permission denied; choose another with --out"):
            create(RunFolder(tmp_path / "run"))

    def test_refuses_a_folder_with_somebody_elses_config(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text("mine")
        with pytest.raises(RunFolderError, match="that no run wrote"):
            create(RunFolder(tmp_path))
        assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


class TestClear:
    def test_removes_all_of_a_run(self, folder: RunFolder) -> None:
        for path in (
            folder.baseline,
            folder.space,
            folder.survivors_table,
            folder.training("baseline"),
            folder.candidates(3),
            folder.snapshot(3),
            folder.survivor("0af3"),
        ):
            path.touch()
        clear(folder)
        assert list(folder.root.iterdir()) == []

    def test_leaves_other_files(self, folder: RunFolder) -> None:
        foreign = [
            folder.root / "notes.txt",
            folder.root / "survivors" / "my model.safetensors",
            folder.root / "checkpoints" / "gen-0001.json.bak",
            folder.root / "deeper" / "config.yaml",
        ]
        (folder.root / "deeper").mkdir()
        for path in [*foreign, folder.snapshot(1)]:
            path.write_text("x")
        clear(folder)
        assert sorted(path for path in folder.root.rglob("*") if path.is_file()) == sorted(foreign)

    def test_refuses_a_folder_without_a_run(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text("mine")
        with pytest.raises(RunFolderError, match="no run to overwrite"):
            clear(RunFolder(tmp_path))
        assert (tmp_path / "config.yaml").exists()

    def test_does_not_follow_links(self, folder: RunFolder, tmp_path: Path) -> None:
        precious = tmp_path / "elsewhere" / "0a.safetensors"
        precious.parent.mkdir()
        precious.touch()
        (folder.root / "survivors").rmdir()
        (folder.root / "survivors").symlink_to(precious.parent)
        with pytest.raises(RunFolderError, match="is a link"):
            clear(folder)
        assert precious.exists()
        assert folder.holds_run()


def test_environment_names_versions_and_machine() -> None:
    found = environment()
    assert {"date", "python", "evoprune", "torch", "numpy", "platform", "cpu", "cores", "memory_gib"} <= set(found)
    assert isinstance(found["cores"], int)
    assert found["cores"] >= 1
    assert found["torch"] is not None
