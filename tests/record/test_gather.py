from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from evoprune.errors import RunFolderError
from evoprune.record.folder import RunFolder
from evoprune.record.gather import load_candidates, load_runs
from evoprune.record.tables import SurvivorRow

MakeRun = Callable[..., RunFolder]
MakeSurvivor = Callable[..., SurvivorRow]


class TestLoadRuns:
    def test_one_row_a_survivor_with_the_config_beside_it(
        self, tmp_path: Path, make_run: MakeRun, survivor: MakeSurvivor
    ) -> None:
        make_run("one", [survivor("a1", 400, 0.12), survivor("a2", 600, 0.11)], tolerance=0.05)
        make_run("deep/two", [survivor("b1", 500, 0.13)], tolerance=0.01)
        make_run("unfinished", [])
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "config.yaml").write_text("not ours")
        runs = load_runs(tmp_path)
        assert runs[["run", "key", "macs", "search.tolerance"]].to_dict("split")["data"] == [
            ["deep/two", "b1", 500, 0.01],
            ["one", "a1", 400, 0.05],
            ["one", "a2", 600, 0.05],
        ]
        assert runs.index.tolist() == [0, 1, 2]

    def test_an_empty_folder_has_the_same_columns_and_types(
        self, tmp_path: Path, make_run: MakeRun, survivor: MakeSurvivor
    ) -> None:
        empty = load_runs(tmp_path)
        make_run("one", [survivor("a1", 400, 0.12)])
        full = load_runs(tmp_path)
        assert len(empty) == 0
        assert dict(empty.dtypes) == dict(full.dtypes)
        assert object not in set(full.dtypes)

    def test_types_come_from_the_schema(self, tmp_path: Path) -> None:
        dtypes = {name: str(dtype) for name, dtype in load_runs(tmp_path).dtypes.items()}
        assert dtypes["seed"] == "Int64"
        assert dtypes["search.tolerance"] == "Float64"
        assert dtypes["space.kernels"] == "boolean"
        assert dtypes["model.weights"] == dtypes["workers.count"] == dtypes["space.keep"] == "str"
        assert dtypes["data.image_size"] == "Int64"

    def test_a_run_itself_counts(self, make_run: MakeRun, survivor: MakeSurvivor) -> None:
        assert load_runs(make_run("one", [survivor("a1", 400, 0.12)]).root)["run"].tolist() == ["."]

    def test_a_damaged_table_is_named(self, tmp_path: Path, make_run: MakeRun) -> None:
        make_run("one", []).survivors_table.write_bytes(b"PAR1")
        with pytest.raises(RunFolderError, match=r"survivors\.parquet is damaged"):
            load_runs(tmp_path)

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match="nowhere is no folder"):
            load_runs(tmp_path / "nowhere")


class TestLoadCandidates:
    def test_every_candidate_beside_its_config(self, tmp_path: Path, make_run: MakeRun) -> None:
        make_run("one", [], tolerance=0.05)
        make_run("deep/two", [], tolerance=0.01)
        candidates = load_candidates(tmp_path)
        assert candidates[["run", "generation", "key", "search.tolerance"]].to_dict("split")["data"] == [
            [run, generation, key, tolerance]
            for run, tolerance in (("deep/two", 0.01), ("one", 0.05))
            for generation, key in ((0, "aa00"), (0, "ab11"), (1, "aa00"), (1, "bb22"))
        ]
        assert candidates.index.tolist() == list(range(8))
        assert "genome" not in candidates

    def test_words_are_categories_and_numbers_numbers(self, tmp_path: Path, make_run: MakeRun) -> None:
        make_run("one", [])
        dtypes = load_candidates(tmp_path, genomes=True).dtypes
        assert object not in set(dtypes)
        for word in ("run", "model.network", "data.dataset", "search.cost", "workers.count"):
            assert dtypes[word] == "category", word
        numbers = {
            "seed": "Int64",
            "search.tolerance": "Float64",
            "space.kernels": "boolean",
            "data.image_size": "Int64",
        }
        assert {name: str(dtypes[name]) for name in numbers} == numbers
        assert str(dtypes["genome"]) == "binary[pyarrow]"

    def test_an_empty_folder_has_the_same_columns(self, tmp_path: Path, make_run: MakeRun) -> None:
        (tmp_path / "empty").mkdir()
        empty = load_candidates(tmp_path / "empty")
        make_run("one", [])
        full = load_candidates(tmp_path / "one")
        assert list(empty) == list(full)
        assert object not in set(empty.dtypes)
        assert len(empty) == 0

    def test_a_run_just_begun_has_no_rows(self, tmp_path: Path, make_run: MakeRun) -> None:
        make_run("one", [])
        folder = make_run("begun", [])
        for generation in (0, 1):
            folder.candidates(generation).unlink()
        assert set(load_candidates(tmp_path)["run"]) == {"one"}

    def test_a_damaged_table_is_named(self, tmp_path: Path, make_run: MakeRun) -> None:
        make_run("one", []).candidates(1).write_bytes(b"PAR1")
        with pytest.raises(RunFolderError, match=r"gen-0001\.parquet is damaged"):
            load_candidates(tmp_path)

    def test_it_groups_as_a_frame_does(self, tmp_path: Path, make_run: MakeRun) -> None:
        for name, tolerance in (("one", 0.05), ("two", 0.01)):
            make_run(name, [], tolerance=tolerance)
        best = load_candidates(tmp_path).query("feasible").groupby("search.tolerance")["macs"].min()
        pd.testing.assert_series_equal(best, best.astype("int64"))
        assert best.to_dict() == {0.01: 600, 0.05: 600}
