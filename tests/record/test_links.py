"""Nothing outside of a run folder is read, written or removed through it, whatever links lie in it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.errors import RunFolderError
from evoprune.record.folder import OWN_FILES, RunFolder
from evoprune.record.housekeeping import clear, create, drop_survivors
from evoprune.record.lock import locked
from tests import tiny_runs
from tests.tiny_runs import BRIEF

FOLDERS = [
    *("survivors", "training", "candidates", "checkpoints", "plots", "export", "tensorboard"),
    *("rounds", "rounds/1", "rounds/1/survivors"),
]
FILES = [
    *(*OWN_FILES, "lock", "export/exports.csv", "plots/front.png", "candidates/gen-0001.parquet"),
    *("checkpoints/gen-0001.json", "survivors/0a.safetensors", "training/0a.safetensors", "rounds/1/config.yaml"),
]
SETTINGS = BRIEF | {
    "record.tensorboard": True,
    "record.report": True,
    "search.rounds": [{"space": {"min_maps": 3}, "search": {"generations": 1}}, {"search": {"generations": 1}}],
}

Snapshot = dict[str, bytes]


def contents(folder: Path) -> Snapshot:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds with everything that a run writes."""
    root = tiny_runs.run(tmp_path_factory.mktemp("links") / "finished", SETTINGS).root
    folder = RunFolder(root)
    folder.exported("exports.csv").parent.mkdir()
    folder.exported("exports.csv").write_text("key\n")
    return root


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """Files of the user's outside of any run, with names of a run's."""
    folder = tmp_path / "mine"
    for name in (*FILES, "0a.safetensors", "gen-0000.json", "gen-0000.parquet", "front.png", "exports.csv", "baseline"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"my own {name}".encode())
    return folder


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, unfinished, below a folder as a sweep has it."""
    runs = tmp_path / "runs"
    shutil.copytree(finished, runs / "run")
    (runs / "run" / "survivors.parquet").unlink()
    return runs


def linked(place: Path, target: Path) -> Path:
    """Puts a link where a file or folder was."""
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)
    return place


def commands(runs: Path, config: Path) -> dict[str, list[str]]:
    run = str(runs / "run")
    return {
        "run": ["run", str(config), "--out", run, "--overwrite"],
        "resume": ["resume", run, "--set", f"data.dataset={BRIEF['data.dataset']}"],
        "report": ["report", run],
        "export": ["export", run],
        "sweep": ["sweep", str(config), "--set", "seed=0", "--out", str(runs)],
        "watch": ["watch", run],
    }


def check_harmless(name: str, place: Path, runs: Path, users: Path, tmp_path: Path) -> None:
    before = contents(users)
    result = CliRunner().invoke(app, commands(runs, tiny_runs.config_file(tmp_path, SETTINGS))[name])
    assert contents(users) == before
    *before_it, line = result.output.splitlines()
    assert result.exit_code == 2, result.output
    assert line.startswith(f"error: {place} is a link (to {place.readlink()})")
    assert line.endswith("or remove the link")
    assert before_it == (["run: 1 of 1: run"] if name == "sweep" else [])


COMMANDS = ["run", "resume", "report", "export", "sweep", "watch"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_a_link_is_refused(name: str, command: str, runs: Path, users: Path, tmp_path: Path) -> None:
    target = users / name if (users / name).is_dir() else users
    check_harmless(command, linked(runs / "run" / name, target), runs, users, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_a_link_is_refused(name: str, runs: Path, users: Path, tmp_path: Path) -> None:
    """config.yaml and environment.json are links to those of a real run: else, there would be none."""
    target = users / name
    if name in ("config.yaml", "environment.json"):
        shutil.copy(runs / "run" / name, target)
    place = linked(runs / "run" / name, target)
    for command in COMMANDS:
        check_harmless(command, place, runs, users, tmp_path)


def test_the_run_folder_itself_may_be_a_link(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "elsewhere")
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    assert len(ep.load_run(tmp_path / "run").survivors)
    result = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", FOLDERS)
def test_a_new_run_in_a_folder_with_a_link_is_refused(name: str, users: Path, tmp_path: Path) -> None:
    place = linked(tmp_path / "run" / name, users)
    before = contents(users)
    with pytest.raises(RunFolderError, match=r"is a link .* or remove the link"):
        tiny_runs.run(tmp_path / "run", BRIEF)
    assert contents(users) == before
    assert place.is_symlink()


@pytest.mark.parametrize(
    "action",
    [
        lambda folder: drop_survivors(folder),
        lambda folder: clear(folder),
        lambda folder: create(folder),
        lambda folder: folder.own_files(),
        lambda folder: folder.survivor("0a"),
        lambda folder: folder.survivor_keys(),
    ],
)
def test_removing_files_checks_the_folder_for_links(
    action: Callable[[RunFolder], object], runs: Path, users: Path
) -> None:
    linked(runs / "run" / "survivors", users)
    before = contents(users)
    with pytest.raises(RunFolderError, match="survivors is a link"):
        action(RunFolder(runs / "run"))
    assert contents(users) == before


def test_only_files_with_names_of_the_runs_are_removed(runs: Path) -> None:
    """Models that a user keeps in the run's own folders stay."""
    folder = RunFolder(runs / "run")
    mine = [
        folder.root / "survivors" / "my-model.safetensors",
        folder.root / "survivors" / "0a.safetensors.bak",
        folder.root / "training" / "my model.safetensors",
        folder.root / "candidates" / "gen-1.parquet",
        folder.root / "notes.evoprune-tmp",
    ]
    for path in mine:
        path.write_text("mine")
    theirs = folder.root / "survivors" / "0a.safetensors"
    theirs.touch()
    create(folder)
    drop_survivors(folder)
    assert not theirs.exists()
    clear(folder)
    assert sorted(path for path in folder.root.rglob("*") if path.is_file()) == sorted(
        [*mine, folder.root / "export" / "exports.csv", folder.root / "lock"]
    )


def test_a_branch_writes_through_no_link(finished: Path, users: Path, tmp_path: Path) -> None:
    target = tmp_path / "branch"
    linked(target / "checkpoints", users)
    before = contents(users)
    with pytest.raises(RunFolderError, match="checkpoints is a link"):
        ep.resume(finished, {"data.dataset": BRIEF["data.dataset"]}, generation=1, out=target)
    assert contents(users) == before


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a\n"])
def test_an_exported_file_has_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunFolderError, match="no name of an exported file"):
        RunFolder(tmp_path).exported(name)


def test_a_link_that_appears_during_a_run_is_found_at_the_next_write(tmp_path: Path, users: Path) -> None:
    with locked(RunFolder(tmp_path / "run")) as folder:
        create(folder)
        linked(folder.root / "survivors", users)
        with pytest.raises(RunFolderError, match="survivors is a link"):
            folder.survivor("0a")


def test_control_characters_in_the_target_of_a_link_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "plots").symlink_to("\x1b[2Jevil\n")
    with pytest.raises(RunFolderError) as error:
        RunFolder(tmp_path).plot("front", "png")
    assert str(error.value).isprintable()
