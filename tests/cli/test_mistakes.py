"""The user's mistakes, from the command line through the whole tool: one line, exit status 2, and nothing is made."""

import re
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from evoprune.cli.main import app
from evoprune.data import datasets
from evoprune.networks.zoo import build_network
from tests import tiny_runs


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def refuse(*_: object) -> None:
    raise OSError("the network is unreachable")


# --set ..., and what the line says (a regular expression)
MISTAKES: dict[str, tuple[list[str], str]] = {
    "misspelt key": (
        ["serch.population=8"],
        r"--set: .*'serch\.population' \(did you mean 'search\.population'\?\)",
    ),
    "wrong type": (
        ["data.validation=many"],
        r'data\.validation must be a whole number from 1 to 10,000,000, not "many"',
    ),
    "wrong range": (["search.population=3"], r"search\.population must be a whole number from 4 to 100,000, not 3"),
    "tolerance in percent": (
        ["search.tolerance=4"],
        r"search\.tolerance must be between 0 and 1 \(a fraction: 0\.02 is two percentage points\), not 4",
    ),
    "nothing to search": (["space.feature_maps=false"], "nothing to search"),
    "layer string": (
        ["model.network=4C3-MPx-10"],
        r"model\.network: 'MPx' \(token 2 of '4C3-MPx-10'\) is not a layer; write",
    ),
    "too few classes": (["model.network=4C3-7"], r"'7' \(token 2 .* number of classes; write 10"),
    "too much pooling": (["model.network=4C3-MP29-10"], r"'MP29' .* leaves nothing of 28 pixels"),
    "unknown network": (["model.network=resnet21"], r"no network 'resnet21'; the nearest is resnet"),
    "nothing that may go": (["model.network=MP2-10"], "the network has no part that may go"),
    "unknown data set": (["data.dataset=mnist5"], "no data set 'mnist5'; the nearest is mnist"),
    "data set not there": (
        ["data.dataset=cifar10", "data.root={here}/empty"],
        r"cifar10 is not in .*/empty/cifar-10-batches-py and cannot be downloaded \(.*unreachable.*\); "
        r"get https?://\S+cifar-10-python\.tar\.gz, so that .* or set data\.root",
    ),
    "too large a validation set": (
        ["data.validation=4000"],
        r"data\.validation: 4000 images cannot be held out of the 4000 training images .* take 3999 at most",
    ),
    "too large a calibration set": (["data.calibration=3801"], r"data\.calibration: 3801 images .* take 3800 at most"),
    "no weights": (["model.weights={here}/no.safetensors"], r"model\.weights: there is no file .*/no\.safetensors"),
    "weights that do not fit": (
        ["model.weights={here}/other.safetensors"],
        r"tensor 'conv2\.weight' has shape \(6, 4, 3, 3\), but the network's has \(8, 4, 3, 3\)",
    ),
    "weights that are none": (["model.weights={here}/tiny.yaml"], "holds no weights that can be read safely"),
    "weights of nowhere": (["model.weights=pretrained"], r"pretrained goes with torchvision:NAME and timm"),
    "unknown device": (["device=cuda:7"], "device: 'cuda:7' is not there"),
    "weights of an early epoch where none was trained": (
        ["retrain.start=rewind_weights", "model.weights={here}/other.safetensors"],
        r"model\.weights must be null with retrain\.start rewind_weights .* use rewind_learning_rate with",
    ),
    "rewound beyond the beginning": (
        ["retrain.start=rewind_learning_rate", "retrain.epochs=9"],
        r"retrain\.epochs must be at most train\.epochs \(1\) with retrain\.start rewind_learning_rate, not 9",
    ),
    "rewound to a network that was never there": (
        ["retrain.start=rewind_weights", "search.rounds=[{{}}, {{}}]"],
        r"round 2: retrain\.start must not be rewind_weights in a round after the first",
    ),
    "a schedule without steps": (
        ["search.schedule=cubic", "search.target_cost=0.5"],
        r"search must have steps 1 with schedule one_shot, and 2 or more with any other, not cubic with 1",
    ),
    "a schedule to nowhere": (
        ["search.schedule=cubic", "search.steps=2"],
        r"search must have exactly one target_cost and no rounds with schedule cubic",
    ),
    "a ranking of kernels": (
        ["search.algorithm=ranking", "space.kernels=true"],
        r"search\.algorithm must not be ranking with space\.kernels .* use widths, or set both to false",
    ),
    "unknown criterion": (
        ["search.criterion=tailor"],
        r"search\.criterion must be one of .*l1, l2, mean_activation, .*, not \"tailor\"",
    ),
    "nobody at the address": (
        ["workers.backend=ray", "workers.address=127.0.0.1:{port}"],
        r"workers\.address: no Ray cluster answers at 127\.0\.0\.1:\d+ \(Connection refused\); start one",
    ),
    "more workers than cores": (
        ["workers.backend=ray", "workers.count=1000"],
        r"workers\.count must be at most \d+ \(the cluster's \d+ cores, 1 threads a worker\), not 1000; lower it",
    ),
}


# Section by section, what a value may not be: each --set, and what the line says.
VALUES: dict[str, str] = {
    "seed=-1": r"seed must be a whole number from 0 to 4294967295, not -1",
    "seed=1.5": r"seed must be a whole number",
    "seed=4294967296": r"seed must be a whole number from 0 to 4294967295",
    "name=../evil": r"name must be up to 100 letters",
    "name=.hidden": r"name must be up to 100 letters",
    "device=gpu": r"device must be auto, cpu, cuda or cuda:N, not \"gpu\"",
    "data=mnist": r"data must be a section with keys of its own",
    "data.validation=0": r"data\.validation must be a whole number from 1 to 10,000,000, not 0",
    "data.calibration=1": r"data\.calibration must be a whole number from 2 to 10,000,000, not 1",
    "data.augment=[rotate]": r"data\.augment must be a list of any of crop, flip",
    "data.root=[]": r"data\.root must be a folder, or null",
    "data.image_size=0": r"data\.image_size must be",
    "data.dataset=no_such_module:make": r"data\.dataset: cannot import module 'no_such_module'",
    "data.dataset=os:getcwd": r"data\.dataset: 'os:getcwd' .*must return",
    "data.dataset=os:nothing": r"'os' has no 'nothing'",
    "model.network=''": r"model\.network must be a layer string",
    "model.network=999999C3-10": r"'999999C3' .* must have sizes of 65536 and repeats of 1000 at most",
    "model.network=9999999x8C3-10": r"'9999999x8C3' .* must have sizes of 65536 and repeats of 1000 at most",
    "model.network=10-4C3": r"'10' .* is the number of classes and must come last",
    "model.network=4C3": r"'4C3' .* is the last layer but must be the number of classes",
    "model.network=16FC-4C3-10": r"'4C3' .* reads images but comes after a hidden layer",
    "model.network=torchvision:resnet1": r"resnet1",
    "model.network=no_such_module:make": r"model\.network: cannot import module 'no_such_module'",
    "model.network=os:sep": r"'os:sep' must be a callable, not a str; name another",
    "train.epochs=0": r"train\.epochs must be a whole number from 1 to 10,000, not 0",
    "train.batch_size=0": r"train\.batch_size must be a whole number",
    "train.learning_rate=-0.1": r"train\.learning_rate must be a number above 0 and at most 1,000, not -0\.1",
    "train.learning_rate=.inf": r"train\.learning_rate must be|plain keys and values|finite",
    "train.momentum=1": r"train\.momentum must be at least 0 and below 1, not 1",
    "train.weight_decay=-1": r"train\.weight_decay must be",
    "train.precision=float16": r"train\.precision must be one of float32, bfloat16",
    "space.kernels=yes please": r"space\.kernels must be true or false",
    "space.min_maps=0": r"space\.min_maps must be",
    "space.keep=[no_such_layer]": r"no_such_layer",
    "search.algorithm=simulated": r"search\.algorithm must be one of",
    "search.generations=0": r"search\.generations must be",
    "search.tolerance=-0.01": r"search\.tolerance must be between 0 and 1",
    "search.cost=flops": r"search\.cost must be one of macs, params, bytes, latency_ms",
    "search.compensation=maybe": r"search\.compensation must be one of",
    "search.mutation_rate=2": r"search\.mutation_rate must be between 0 and 1",
    "search.rounds=3": r"search\.rounds must be a list of at most 100 rounds",
    "workers.backend=dask": r"workers\.backend must be one of ray, serial",
    "workers.count=0": r"workers\.count must be a whole number from 1 to 10,000, or auto",
    "workers.threads=0": r"workers\.threads must be",
    "workers.memory=-1": r"workers\.memory must be a number above 0 and at most 1,000,000 \(GiB\), or auto",
    "workers.timeout_s=0": r"workers\.timeout_s must be a number above 0 and at most 10,000,000 \(seconds\)",
    "workers.epoch_timeout_s=soon": r"workers\.epoch_timeout_s must be a number above 0 and at most 10,000,000",
    "retrain.survivors=0": r"retrain\.survivors must be",
    "retrain.distillation=1.5": r"retrain\.distillation must be between 0 and 1",
    "retrain.temperature=0": r"retrain\.temperature must be a number above 0",
    "record.report=2": r"record\.report must be true or false",
    "search.population=1000000000000": r"search\.population must be a whole number from 4 to 100,000, not 10{12}$",
    "search.generations=1000000000": r"search\.generations must be a whole number from 1 to 100,000, not 10{9}$",
    "search.steps=1000000000": r"search\.steps must be a whole number from 1 to 100, not 10{9}$",
    "search.litter=1000000": r"search\.litter must be a whole number from 1 to 1,000, not 1000000$",
    f"search.rounds=[{', '.join(['{{}}'] * 10_000)}]": r"search\.rounds must be a list of at most 100 rounds",
    "search.rounds=[{{search: {{population: 1000000000000}}}}]": r"round 1: search\.population must be .* 100,000",
    "workers.threads=1099511627776": r"workers\.threads must be a whole number from 1 to 1,024",
    "workers.count=1000000000": r"workers\.count must be a whole number from 1 to 10,000, or auto",
    "workers.timeout_s=1e300": r"workers\.timeout_s must be a number above 0 and at most 10,000,000",
    "workers.memory=1e300": r"workers\.memory must be a number above 0 and at most 1,000,000",
    "train.weight_decay=1e300": r"train\.weight_decay must be a number from 0 to 100, not 1e\+300$",
    "train.learning_rate=1e300": r"train\.learning_rate must be a number above 0 and at most 1,000, not 1e\+300$",
    "train.epochs=1000000000": r"train\.epochs must be a whole number from 1 to 10,000",
    "train.batch_size=1000000000": r"train\.batch_size must be a whole number from 1 to 65,536",
    "retrain.survivors=1000000000": r"retrain\.survivors must be a whole number from 1 to 10,000",
    "data.validation=1000000000000": r"data\.validation must be a whole number from 1 to 10,000,000",
    f"model.network={'4C3-' * 3000}10": r"model\.network must be a layer string .*, of at most 1,000 characters, not",
    f"model.weights={'w' * 900}": r"model\.weights: there is no file w{900}; give",
    "model.weights=~nosuchuser/w.pt": r"model\.weights: there is no file ~nosuchuser/w\.pt; give",
    f"seed={'9' * 5000}": r"the value of seed is not valid YAML: Exceeds the limit",
    "seed=08.0": r"seed must be a whole number from 0 to 4294967295, not 8\.0",
    "seed": r"--set must be KEY=VALUE",
    "=1": r"--set must be KEY=VALUE",
    "seed=[1": r"the value of seed is not valid YAML",
    "seed=!!python/object/apply:os.getcwd []": r"the value of seed is not valid YAML",
}
MISTAKES |= {setting: ([setting], message) for setting, message in VALUES.items()}


def test_at_least_sixty_mistakes_are_tested() -> None:
    """tests/pipeline/test_hostile.py has more, in weights and run folders."""
    assert len(MISTAKES) >= 60


@pytest.mark.parametrize(("settings", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes(
    settings: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if any(setting.startswith("workers.address=") for setting in settings):
        request.getfixturevalue("no_ray")  # a process that is connected already stays so
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "download", refuse)
    config = tiny_runs.config_file(tmp_path)
    other = build_network("4C3-MP2-6C3-MP2-16FC-10", (1, 28, 28), 10, torch.Generator())
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    before = tiny_runs.state_of(tmp_path)
    places = {"here": tmp_path, "port": unused_port()}
    changes = [word for setting in settings for word in ("--set", setting.format(**places))]
    result = call("run", config, "--quiet", *changes)
    check_line(result, message)
    assert tiny_runs.state_of(tmp_path) == before
    assert not (tmp_path / "results").exists()


def check_line(result: Result, message: str) -> None:
    assert (result.exit_code, result.stdout) == (2, ""), result.exception
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)


def test_a_misspelt_key_in_the_file(tmp_path: Path) -> None:
    config = tiny_runs.config_file(tmp_path)
    config.write_text(config.read_text().replace("tolerance:", "tolerence:"))
    check_line(call("run", config, "--out", tmp_path / "out"), r"tiny\.yaml: .*tolerence.*did you mean .*tolerance")
    assert not (tmp_path / "out").exists()


FOLDERS = {
    "below a file": ("tiny.yaml/out", "cannot be written: Not a directory; choose another with --out"),
    "a file": ("tiny.yaml", "cannot be written: .*; choose another with --out"),
    "where nobody may": ("/proc/evoprune", "cannot be written: .*; choose another with --out"),
}


@pytest.mark.parametrize(("out", "message"), FOLDERS.values(), ids=FOLDERS.keys())
def test_folders_that_cannot_be_written(out: str, message: str, tmp_path: Path) -> None:
    config = tiny_runs.config_file(tmp_path)
    before = tiny_runs.state_of(tmp_path)
    check_line(call("run", config, "--quiet", "--out", tmp_path / out), message)
    assert tiny_runs.state_of(tmp_path) == before


@pytest.mark.parametrize("name", ["config.yaml", "baseline.safetensors", "survivors.parquet"])
def test_a_folder_with_other_files(name: str, tmp_path: Path) -> None:
    """They are neither overwritten nor taken for the run's own."""
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    check_line(
        call("run", tiny_runs.config_file(tmp_path), "--quiet", "--out", out),
        f"out holds a {re.escape(name)} that no run wrote; choose another folder with --out",
    )
    assert tiny_runs.state_of(out).keys() == {name}
    assert (out / name).read_text() == "mine"


def test_earlier_output_stays_above_the_error_line(tmp_path: Path) -> None:
    """Without --quiet the mistake is the last line."""
    config = tiny_runs.config_file(tmp_path, {"model.network": "MP2-10"})
    result = call("run", config, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: the network has no part that may go")
    assert not (tmp_path / "out").exists()


def test_a_mistake_found_in_training(tmp_path: Path) -> None:
    config = tiny_runs.config_file(tmp_path, {"train.learning_rate": 1000})
    result = call("run", config, "--quiet", "--out", tmp_path / "out")
    check_line(result, "the loss is (nan|inf) at step .* take a learning_rate below 1000")


def test_inspect_reports_the_same_mistakes(tmp_path: Path) -> None:
    check_line(call("inspect", tiny_runs.config_file(tmp_path, {"model.network": "MP2-10"})), "no part that may go")


@pytest.mark.parametrize("command", ["run", "resume", "export", "report", "watch", "inspect"])
def test_a_path_that_is_too_long(command: str, tmp_path: Path) -> None:
    check_line(
        call(command, tmp_path / ("x" * 900)), r"x{900}\S* is too long for a path$|config file not found|cannot be read"
    )
