import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evoprune.config.loading import config_from_dict, dump_config
from evoprune.data.input_format import InputFormat
from evoprune.discovery.discover import search_space
from evoprune.errors import RunFolderError, UserError
from evoprune.record import files
from evoprune.record.folder import RunFolder
from evoprune.record.housekeeping import create
from evoprune.record.runs import flat_config, load_run
from evoprune.record.survivor_files import SavedSurvivor, read_survivor, write_survivor
from evoprune.record.tables import SurvivorRow, candidates_frame, survivors_frame
from evoprune.scoring.candidate import Candidate, Score
from evoprune.space.search_space import SearchSpace

MakeRun = Callable[..., RunFolder]
MakeSurvivor = Callable[..., SurvivorRow]


class TestLoadRun:
    def test_frames(self, make_run: MakeRun, survivor: MakeSurvivor) -> None:
        run = load_run(make_run("run", [survivor("bb22", 600, 0.12)]).root)
        assert run.config.search.tolerance == 0.02
        assert run.candidates["key"].tolist() == ["aa00", "ab11", "aa00", "bb22"]
        assert run.generations["best_feasible_macs"].tolist() == [1000, 600]
        assert run.survivors["key"].tolist() == ["bb22"]

    def test_only_reads(self, make_run: MakeRun) -> None:
        folder = make_run("run", [])
        before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*")}
        run = load_run(str(folder.root))
        assert len(run.candidates) + len(run.generations) + len(run.survivors) == 6
        assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("*")} == before

    @pytest.mark.parametrize("name", ["missing", "empty", "config_alone"])
    def test_a_folder_without_a_run_is_refused_in_one_line(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "config_alone").mkdir()
        (tmp_path / "config_alone" / "config.yaml").write_text("name: x\n")
        with pytest.raises(RunFolderError, match=f"{name} holds no run") as caught:
            load_run(tmp_path / name)
        assert "\n" not in str(caught.value)


class TestGenome:
    @pytest.mark.parametrize("key", ["bb22", "b"])
    def test_by_key_or_its_beginning(self, make_run: MakeRun, key: str) -> None:
        genome = load_run(make_run("run", []).root).genome(key)
        assert genome.dtype == np.uint8
        assert genome.tolist() == [0, 0, 0, 0]  # "bb22" in ASCII: 98, 98, 50, 50; modulo 2
        genome[0] = 1  # the caller's own

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("a", "'a' begins several keys \\(aa00, ab11, ...\\)"),
            ("", "begins several keys"),
            ("ab12", "no candidate has the key 'ab12'; the nearest: ab11, bb22"),
            ("cc", "the nearest: bb22"),
        ],
    )
    def test_an_unknown_one_names_the_nearest(self, make_run: MakeRun, key: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            load_run(make_run("run", []).root).genome(key)

    def test_a_whole_key_that_begins_another_is_meant(self, tmp_path: Path, make_run: MakeRun) -> None:
        folder = make_run("run", [])
        frame = load_run(folder.root).candidates
        files.write_parquet(folder.candidates(2), frame.iloc[:1].assign(key="aa001", generation=2))
        assert len(load_run(folder.root).genome("aa00")) == 4


class TestLoadSurvivor:
    NETWORK = "4C3-MP2-6FC-3"

    @pytest.fixture
    def run(self, tmp_path: Path, survivor: MakeSurvivor) -> tuple[RunFolder, torch.nn.Module]:
        """A run whose one survivor keeps half of every group, and that survivor."""
        from evoprune.networks.zoo import build_network
        from evoprune.surgery.apply import compact

        model = build_network(self.NETWORK, (1, 8, 8), 3, torch.Generator().manual_seed(1)).eval()
        space = search_space(model, torch.zeros(1, 1, 8, 8))
        genome = space.random(np.random.default_rng(0), keep=0.5)
        small = compact(model, space, genome)
        folder = RunFolder(tmp_path / "run")
        create(folder)
        config = config_from_dict({"name": "run", "model": {"network": self.NETWORK}})
        files.write_text(folder.config, dump_config(config))
        files.write_json(folder.space, space.to_dict())
        saved = SavedSurvivor(small.state_dict(), InputFormat((1, 8, 8), 3))
        write_survivor(folder.survivor("ab"), saved, space, genome)
        score = Score(1, 10, 10, True, True, 100, 50, 200, 0.5)
        files.write_parquet(folder.candidates(0), candidates_frame([Candidate(0, "ab", genome, score, False)]))
        files.write_parquet(folder.survivors_table, survivors_frame([survivor("ab", 100, 0.1)]))
        return folder, small.eval()

    def test_gives_the_same_network(self, run: tuple[RunFolder, torch.nn.Module]) -> None:
        folder, small = run
        images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))
        loaded = load_run(folder.root).load_survivor("a")
        assert not loaded.training
        with torch.no_grad():
            assert torch.equal(loaded(images), small(images))

    def test_code_is_not_imported_for_a_run_folder(self, run: tuple[RunFolder, torch.nn.Module]) -> None:
        from evoprune.networks.zoo import build_network

        folder, _ = run
        config = config_from_dict({"name": "run", "model": {"network": "antigravity:make"}})
        files.write_text(folder.config, dump_config(config))
        with pytest.raises(RunFolderError, match=r"antigravity:make\) is code.*network="):
            load_run(folder.root).load_survivor("ab")
        own = build_network(self.NETWORK, (1, 8, 8), 3, torch.Generator())
        assert load_run(folder.root).load_survivor("ab", network=own) is not None

    def test_weights_of_other_shapes_are_refused(self, run: tuple[RunFolder, torch.nn.Module]) -> None:
        folder, _ = run
        candidates = files.read_parquet([folder.candidates(0)])
        full = np.ones(len(candidates["genome"][0]), np.uint8).tobytes()
        files.write_parquet(folder.candidates(0), candidates.assign(genome=[full]))
        with pytest.raises(UserError, match=r"ab\.safetensors.*shape"):
            load_run(folder.root).load_survivor("ab")

    def test_an_unknown_key_is_refused(self, run: tuple[RunFolder, torch.nn.Module]) -> None:
        with pytest.raises(RunFolderError, match="no survivor has the key 'ff'; the nearest: ab"):
            load_run(run[0].root).load_survivor("ff")


@pytest.mark.parametrize("name", ["image_shape", "classes"])
def test_a_survivors_metadata_are_checked(tmp_path: Path, name: str) -> None:
    space = SearchSpace((), (), (), (), ())
    metadata = {"image_shape": "[1, 8, 8]", "classes": "10"}
    for bad in (None, "", "[256, -1]", '"a"', "{}", "null"):
        changed = {key: json.dumps(value) if value is None else value for key, value in metadata.items()}
        changed = {key: value for key, value in {**changed, name: bad}.items() if value is not None}
        files.write_tensors(tmp_path / "a", {"weight": torch.ones(1)}, changed)
        with pytest.raises(files.DamagedFileError, match="metadata"):
            read_survivor(tmp_path / "a", space, space.full())


def test_flat_config_has_dotted_keys_and_plain_values() -> None:
    flat = flat_config(config_from_dict({"name": "x", "space": {"keep": ["fc", "conv1"]}}))
    assert flat["space.keep"] == "fc,conv1"
    assert flat["search.tolerance"] == 0.02
    assert flat["data.root"] is None
