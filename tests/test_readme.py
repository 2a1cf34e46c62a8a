"""Every code block of the READMEs runs in a copy of the checkout, one block after the other.

The commands and programs are the README's own. What is shorter than in the README is named here: the experiments that
it runs are small ones of the same name (SMALL), and STAND_INS says what runs in the place of what, and why.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import evoprune as ep
from evoprune.cli.main import app
from evoprune.config.loading import dump_config, load_config
from evoprune.data.load import load_data
from evoprune.networks.zoo import build_network

CHECKOUT = Path(__file__).parent.parent
READMES = ("README.md", "experiments/README.md", "results/README.md")

NETWORK = "4C3-MP4-10"

SMALL: dict[str, object] = {
    "data.dataset": "mnist5k",
    "data.validation": 200,
    "data.calibration": 64,
    "model.network": NETWORK,
    "model.weights": None,
    "train.epochs": 1,
    "search.population": 6,
    "search.generations": 3,
    "search.tolerance": 0.3,
    "workers.backend": "serial",
    "retrain.survivors": 1,
    "retrain.epochs": 0,
    "record.report": False,  # the README's `evoprune report` writes them
}

STAND_INS = {
    # it is what runs this test; here it is seen that there is such a target
    "make test": "make --dry-run test",
    # many seconds of proof for 11 million weights; another network by name takes the same way
    "evoprune inspect torchvision:resnet18": "evoprune inspect resnet20 --images 1x28x28 --classes 10",
    # minutes of measuring that nothing here depends on
    "bench inference results/quickstart": "bench inference results/quickstart --seconds 0.001 --threads 1",
    # a cluster of one's own would outlive the test; tests/workers/test_workers.py starts workers on Ray
    "ray start --head": "ray start --help",
    "--set workers.address=auto": "--set workers.backend=serial",
    # two runs are a sweep
    "--set seed=0,1,2 --set search.tolerance=0.01,0.02": "--set seed=0,1",
    # the search of `ep.evolve` by default, smaller
    "tolerance=0.02,  # two percentage points": "tolerance=0.3, search=small_search, workers=serial,",
}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(readme: Path) -> list[tuple[str, str]]:
    """Language and text of every code block that is a program; refuses languages that nobody runs."""
    found = BLOCK.findall(readme.read_text())
    assert {language for language, _ in found} <= {"sh", "python", "text"}
    return [(language, text) for language, text in found if language != "text"]


def with_stand_ins(text: str) -> str:
    for original, shorter in STAND_INS.items():
        text = text.replace(original, shorter)
    return text


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with small experiments, whose .venv is the environment that the tests run in; the working folder."""
    for name in ("evoprune", "tests", "Makefile", "pyproject.toml", "README.md"):
        (tmp_path / name).symlink_to(CHECKOUT / name)
    environment = tmp_path / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        if (Path(sys.prefix) / name).exists():
            (environment / name).symlink_to(Path(sys.prefix) / name)
    for name in (".installed", ".installed-dev"):
        (environment / name).touch()
    (tmp_path / "experiments").mkdir()
    for path in (CHECKOUT / "experiments").glob("*.yaml"):
        if path.stem.startswith(("study_", "curve_")):
            continue
        small = dump_config(load_config(path, SMALL))
        (tmp_path / "experiments" / path.name).write_text(small)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_shell(text: str) -> None:
    """Each line of a block: `evoprune` in this process, everything else as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["evoprune"]:
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == 0, f"{line}\n{result.output}"
        elif words:
            installed = Path(sys.executable).parent / words[0]  # as in an activated environment
            program = str(installed) if installed.exists() else words[0]
            done = subprocess.run([program, *words[1:]], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def given() -> dict[str, Any]:
    """The names that the README's programs use: a trained network and images."""
    data = load_data(load_config(CHECKOUT / "experiments" / "quickstart.yaml", SMALL).data, seed=0)
    x_train, y_train = data.calibration.tensors()
    x_validation, y_validation = data.validation.tensors()
    model: nn.Module = build_network(NETWORK, data.image_shape, data.classes, torch.Generator().manual_seed(0))
    return {
        **{"x_train": x_train, "y_train": y_train, "x_validation": x_validation, "y_validation": y_validation},
        "model": model.eval(),
        "small_search": ep.SearchConfig(population=4, generations=1),
        "serial": ep.WorkersConfig(backend="serial"),
    }


def run_blocks(readme: Path) -> None:
    names = given()
    for number, (language, text) in enumerate(blocks(readme)):
        if language == "sh":
            run_shell(with_stand_ins(text))
        else:
            exec(compile(with_stand_ins(text), f"{readme.name}, block {number}", "exec"), names)


def test_readme(copy: Path) -> None:
    run_blocks(CHECKOUT / "README.md")
    for made in ("quickstart/report.html", "strict/survivors.parquet", "branch/survivors.parquet", "both.html"):
        assert (copy / "results" / made).is_file()
    assert len(list((copy / "results" / "quickstart" / "candidates").iterdir())) == 31  # resumed up to generation 30


def test_experiments_readme(copy: Path, tiny_run: ep.Run) -> None:
    shutil.copytree(tiny_run.root, copy / "results" / "quickstart")
    run_blocks(CHECKOUT / "experiments" / "README.md")
    assert (copy / "results" / "front.pdf").is_file()
    assert len(list((copy / "results" / "quickstart-sweep").glob("*/survivors.parquet"))) == 2


def test_results_readme(copy: Path, tiny_run: ep.Run) -> None:
    shutil.copytree(tiny_run.root, copy / "results" / "quickstart")
    run_blocks(CHECKOUT / "results" / "README.md")


def test_every_stand_in_replaces_some_text() -> None:
    text = "".join((CHECKOUT / name).read_text() for name in READMES)
    assert [original for original in STAND_INS if original not in text] == []
    assert np.isin(["sh", "python"], [language for language, _ in blocks(CHECKOUT / "README.md")]).all()


LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([\w-]*))?\)")


@pytest.mark.parametrize("page", [*READMES, "results/STUDIES.md"])
def test_links_have_targets(page: str) -> None:
    """Files exist, and a fragment is the heading of one of the page's sections, as GitHub names them."""
    for name, fragment in LINK.findall((CHECKOUT / page).read_text()):
        target = (CHECKOUT / page).parent / name if name else CHECKOUT / page
        assert target.is_file(), f"{page}: {name}"
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if fragment else []
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not fragment or fragment in anchors, f"{page}: #{fragment} of {anchors}"
