import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest

from evoprune.config.loading import config_from_dict, dump_config, load_config
from evoprune.errors import ConfigError, RunFolderError
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.gather import load_candidates, load_runs, runs_at
from evoprune.record.runs import load_run
from evoprune.record.tables import SURVIVOR_DTYPES, SurvivorRow

MakeRun = Callable[..., RunFolder]
MakeSurvivor = Callable[..., SurvivorRow]


LATIN = os.fsdecode(b"caf\xe9")
"""A name of a folder that is not in UTF-8."""


def write_config(folder: RunFolder, settings: Mapping[str, object]) -> None:
    files.write_text(folder.config, dump_config(config_from_dict({"name": "changed", **settings})))


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
        assert runs[["run", "status", "key", "macs", "search.tolerance"]].dropna().to_dict("split")["data"] == [
            ["deep/two", "finished", "b1", 500, 0.01],
            ["one", "finished", "a1", 400, 0.05],
            ["one", "finished", "a2", 600, 0.05],
        ]
        assert runs.index.tolist() == [0, 1, 2, 3]

    def test_a_run_without_survivors_has_a_row_without_them(
        self, tmp_path: Path, make_run: MakeRun, survivor: MakeSurvivor
    ) -> None:
        make_run("nothing", [])
        make_run("one", [survivor("a1", 400, 0.12)])
        runs = load_runs(tmp_path)
        assert runs[["run", "status"]].to_dict("split")["data"] == [["nothing", "finished"], ["one", "finished"]]
        assert runs[[*SURVIVOR_DTYPES]].isna().loc[0].all()
        assert runs["search.tolerance"].tolist() == [0.02, 0.02]
        assert (str(runs["macs"].dtype), runs["macs"].sum()) == ("Int64", 400)

    @pytest.mark.parametrize(
        ("snapshots", "status"),
        [
            ([], "before the search"),
            ([0], "in generation 1"),
            ([0, 1, 2], "in generation 3"),
            ([7, 8], "in retraining"),
        ],
    )
    def test_a_stopped_run_has_its_stage(
        self, tmp_path: Path, make_run: MakeRun, snapshots: list[int], status: str
    ) -> None:
        folder = make_run("one", [])
        folder.survivors_table.unlink()
        for generation in snapshots:
            folder.snapshot(generation).write_text("")
        assert load_runs(tmp_path)["status"].tolist() == [f"stopped {status}"]

    def test_a_stopped_run_with_rounds_has_its_round(self, tmp_path: Path, make_run: MakeRun) -> None:
        folder = make_run("one", [])
        folder.survivors_table.unlink()
        rounds = {"target_cost": 0.5, "schedule": "linear", "steps": 3}
        files.write_text(folder.config, dump_config(config_from_dict({"name": "one", "search": rounds})))
        make_run("one/rounds/1", [])
        make_run("one/rounds/2", []).survivors_table.unlink()
        folder.round(2).snapshot(0).write_text("")
        assert load_runs(tmp_path)["status"].tolist() == ["stopped in generation 1 of round 2"]

    def test_a_number_is_a_number_beside_texts(self, tmp_path: Path, make_run: MakeRun) -> None:
        for name, search in (("none", {}), ("one", {"target_cost": 0.25})):
            write_config(make_run(name, []), {"search": search, "workers": {"count": 2}})
        runs = load_runs(tmp_path)
        assert (str(runs["search.target_cost"].dtype), runs["search.target_cost"].sum()) == ("Float64", 0.25)
        assert (str(runs["workers.count"].dtype), runs["workers.count"].tolist()) == ("Int64", [2, 2])
        write_config(make_run("several", []), {"search": {"target_cost": [0.5, 0.25]}})
        runs = load_runs(tmp_path)
        assert runs["search.target_cost"].tolist()[1:] == [0.25, "0.5,0.25"]
        assert runs["search.target_cost"].isna().tolist() == [True, False, False]
        assert runs["workers.count"].tolist() == [2, 2, "auto"]

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

    @pytest.mark.parametrize(
        ("file", "content", "reason"),
        [
            ("survivors.parquet", "PAR1", r"survivors\.parquet is damaged"),
            ("config.yaml", "name: [", "config.yaml: not valid YAML"),
            ("config.yaml", "name: bad\nsearch: {algorithm: of 2030}", "search.algorithm must be"),
        ],
    )
    def test_an_unreadable_run_does_not_stop_the_others(
        self,
        tmp_path: Path,
        make_run: MakeRun,
        survivor: MakeSurvivor,
        caplog: pytest.LogCaptureFixture,
        file: str,
        content: str,
        reason: str,
    ) -> None:
        make_run("good", [survivor("a1", 400, 0.12)])
        (make_run("bad", [survivor("b1", 400, 0.12)]).root / file).write_text(content)
        with caplog.at_level(logging.WARNING):
            runs = load_runs(tmp_path)
        [message] = caplog.messages
        assert message.startswith("the run bad cannot be read, and is listed as damaged: ")
        assert re.search(reason, message)
        assert runs["status"].tolist() == ["damaged", "finished"]
        assert runs["key"].isna().tolist() == [True, False]

    def test_a_key_of_a_newer_version_is_left_out(
        self, tmp_path: Path, make_run: MakeRun, survivor: MakeSurvivor, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = make_run("one", [survivor("a1", 400, 0.12)], tolerance=0.07)
        folder.config.write_text(folder.config.read_text() + "colour: blue\n")
        folder.config.write_text(folder.config.read_text().replace("search:\n", "search:\n  warp: 9\n"))
        with caplog.at_level(logging.WARNING):
            runs = load_runs(tmp_path)
        assert "does not know (search.warp, colour)" in caplog.text
        assert runs[["status", "key", "search.tolerance"]].to_dict("split")["data"] == [["finished", "a1", 0.07]]
        with pytest.raises(ConfigError, match="unknown key"):  # but such a run does not go on
            load_config(folder.config)

    def test_a_path_that_is_not_utf8_is_escaped(
        self, tmp_path: Path, make_run: MakeRun, survivor: MakeSurvivor, caplog: pytest.LogCaptureFixture
    ) -> None:
        make_run("good", [survivor("a1", 400, 0.12)])
        make_run("bad", []).root.rename(tmp_path / LATIN)
        with caplog.at_level(logging.WARNING):
            runs = load_runs(tmp_path)
        assert runs[["run", "status"]].to_dict("split")["data"] == [["caf\\udce9", "damaged"], ["good", "finished"]]
        assert "must be a path in UTF-8; rename it" in caplog.text
        for read in (load_runs, load_candidates, load_run):
            with pytest.raises(RunFolderError, match=r"caf\\udce9 must be a path in UTF-8; rename it"):
                read(tmp_path / LATIN)

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

    def test_a_run_that_cannot_be_read_is_left_out(
        self, tmp_path: Path, make_run: MakeRun, caplog: pytest.LogCaptureFixture
    ) -> None:
        make_run("good", [])
        make_run("bad", []).candidates(1).write_bytes(b"PAR1")
        with caplog.at_level(logging.WARNING):
            candidates = load_candidates(tmp_path)
        [message] = caplog.messages
        assert message.startswith("the run bad cannot be read, and is left out: ")
        assert "gen-0001.parquet is damaged" in message
        assert candidates["run"].unique().tolist() == ["good"]
        assert candidates["status"].unique().tolist() == ["finished"]

    def test_it_groups_as_a_frame_does(self, tmp_path: Path, make_run: MakeRun) -> None:
        for name, tolerance in (("one", 0.05), ("two", 0.01)):
            make_run(name, [], tolerance=tolerance)
        best = load_candidates(tmp_path).query("feasible").groupby("search.tolerance")["macs"].min()
        pd.testing.assert_series_equal(best, best.astype("int64"))
        assert best.to_dict() == {0.01: 600, 0.05: 600}


class TestRunsAt:
    def test_a_run_that_cannot_be_read_is_left_out_unless_it_is_named(
        self, tmp_path: Path, make_run: MakeRun, caplog: pytest.LogCaptureFixture
    ) -> None:
        good, bad = make_run("good", []), make_run("bad", [])
        bad.config.write_text("name: [")
        with caplog.at_level(logging.WARNING):
            assert [run.root for run in runs_at([tmp_path])] == [good.root]
        assert "the run bad cannot be read, and is left out" in caplog.text
        [named] = runs_at([bad.root])
        with pytest.raises(ConfigError, match="not valid YAML"):
            _ = named.config
