"""The experiments that come along: each loads, and its network is searched as its title says."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from evoprune.bench.population import read_population
from evoprune.cli.main import app
from evoprune.config.loading import load_config
from evoprune.data import datasets
from evoprune.data.datasets import DEBIAN_FASHION_MNIST
from evoprune.data.load import load_data
from evoprune.discovery.discover import discover
from evoprune.networks.zoo import build_network
from evoprune.pipeline import run as pipeline

FOLDER = Path(__file__).parents[2] / "experiments"

STUDIES = ["curve_fashion", "study_ablation", "study_distillation", "study_fashion", "study_fitness"]
"""Not one experiment but many: see `tests/bench/test_study.py`."""

GREY, COLOUR = (1, 28, 28), (3, 32, 32)

QUARTER_WIDTH = (
    GREY,
    32 * 9 * 784 + 32 * 32 * 9 * (784 + 2 * 196) + (64 * 32 + 64 * 64) * 9 * 49 + 256 * (64 * 49) + 10 * 256,
    4 * 32 + 2 * 64 + 256,
)

HALF_WIDTH = (
    GREY,
    64 * 9 * 784 + 64 * 64 * 9 * (784 + 2 * 196) + (128 * 64 + 128 * 128) * 9 * 49 + 256 * (128 * 49) + 10 * 256,
    4 * 64 + 2 * 128 + 256,
)

# Expansion, depthwise and projection, block by block. The stem goes with the first block's output, which is added
# to it, and so do the outputs of the two blocks of each later stage.
MOBILENET = (
    GREY,
    16 * 9 * 784
    + (16 * 9 + 16 * 16) * 784
    + (96 * 16 + 96 * 9 + 24 * 96) * 784
    + 144 * 24 * 784
    + (144 * 9 + 32 * 144) * 196
    + (192 * 32 + 192 * 9 + 32 * 192) * 196
    + 192 * 32 * 196
    + (192 * 9 + 64 * 192) * 49
    + (384 * 64 + 384 * 9 + 64 * 384) * 49
    + 256 * 64 * 49
    + 10 * 256,
    16 + (96 + 24) + (144 + 32 + 192) + (192 + 64 + 384) + 256,
)

# Images; MACs by hand: maps x inputs x taps x pixels of every convolution, then the linear layers; genes.
NETWORKS = {
    "energy": (GREY, 16 * 25 * 784 + 32 * 16 * 25 * 196 + 64 * (32 * 49) + 10 * 64, 16 + 32 + 64),
    "quickstart": (GREY, 16 * 25 * 784 + 32 * 16 * 25 * 196 + 64 * (32 * 49) + 10 * 64, 16 + 32 + 64),
    "anwar_mnist": (GREY, 16 * 25 * 784 + 32 * 16 * 25 * 196 + 64 * (32 * 49) + 10 * 64, 16 + 32 + 64),
    "fashion_cnn": QUARTER_WIDTH,
    "bench_criteria": QUARTER_WIDTH,
    "fashion_half_width": HALF_WIDTH,
    "bench_fitness": HALF_WIDTH,
    "fashion_mobilenet": MOBILENET,
    "fashion_mobilenet_by16": (*MOBILENET[:2], MOBILENET[2] - 16),  # all 16 maps of the stem stay
    # stem, then three stages of three blocks; each of the last two begins with half of the maps on twice the side,
    # and has a 1x1 shortcut. The maps of a stage's sums go together; those inside a block are its own.
    "fashion_resnet20": (
        GREY,
        16 * 9 * 784
        + 6 * 16 * 16 * 9 * 784
        + (32 * 16 + 5 * 32 * 32) * 9 * 196
        + 32 * 16 * 196
        + (64 * 32 + 5 * 64 * 64) * 9 * 49
        + 64 * 32 * 49
        + 10 * 64,
        (1 + 3) * (16 + 32 + 64),
    ),
    "anwar_cifar10_small": (  # the first convolution stays whole
        COLOUR,
        128 * 3 * 9 * 1024
        + 128 * 128 * 9 * (1024 + 2 * 256)
        + (256 * 128 + 256 * 256) * 9 * 64
        + 256 * (256 * 64)
        + 10 * 256,
        3 * 128 + 2 * 256 + 256,
    ),
    "anwar_svhn": (  # the first convolution stays whole
        COLOUR,
        64 * 3 * 9 * 1024
        + 64 * 64 * 9 * 1024
        + (128 * 64 + 128 * 128) * 9 * 256
        + 2 * 128 * 128 * 9 * 64
        + 512 * (128 * 64)
        + 512 * 512
        + 10 * 512,
        64 + 4 * 128 + 2 * 512,
    ),
}

WHOLE = {"fashion_mobilenet_by16": {"stem.conv", "stage1.block1.depthwise.conv", "stage1.block1.project.conv"}}
"""Layers besides the classifier that stay whole: they have no more maps than stay at least."""

# The network that it prunes, and genes by hand: kernels of a layer are outputs x inputs (the first layer of grey images
# has none, its kernels are its maps), strides one an input map.
MASKED = {
    "fashion_kernels": ("fashion_cnn", 3 * 32 * 32 + 64 * 32 + 64 * 64),
    "fashion_strides": ("fashion_cnn", 1 + 4 * 32 + 64),
    "fashion_all_masks": (  # kernels in blocks of eight output maps
        "fashion_cnn",
        (4 * 32 + 2 * 64 + 256) + (3 * 4 * 32 + 8 * 32 + 8 * 64) + (1 + 4 * 32 + 64),
    ),
    "anwar_cifar10_kernels": ("anwar_cifar10_small", 3 * 128 * 128 + 256 * 128 + 256 * 256),
    "anwar_cifar10_both": ("anwar_cifar10_small", 3 * 128 + 2 * 256 + 256),  # its first round: feature maps
}

ABSENT = {
    "anwar_mnist": r"mnist is not in .* get \S*train-images-idx3-ubyte.gz .* or set data.root to their folder",
    "anwar_cifar10_small": r"cifar10 is not in .* get \S*cifar-10-python.tar.gz, .* or set data.root to their folder",
    "anwar_svhn": r"svhn is not in .* get \S*train_32x32.mat \S*test_32x32.mat, .* or set data.root to their folder",
}


def test_every_experiment_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*NETWORKS, *MASKED, *STUDIES}


@pytest.mark.parametrize("name", [*NETWORKS, *MASKED])
def test_it_loads_under_its_own_name(name: str) -> None:
    config = load_config(FOLDER / f"{name}.yaml")
    assert config.name == name
    assert config.workers.backend == "ray"
    assert config.retrain.epochs > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_its_network_is_searched(name: str) -> None:
    """Every layer but the classifier, and the first convolution where it is to stay; MACs by hand and by PyTorch."""
    image_shape, macs, genes = NETWORKS[name]
    config = load_config(FOLDER / f"{name}.yaml")
    model = build_network(config.model.network, image_shape, 10, torch.Generator().manual_seed(0)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *image_shape))
    assert counter.get_total_flops() == 2 * macs
    report = pipeline.inspect(config)
    assert (report.macs, report.genes) == (macs, genes)
    first, *_, last = (layer.name for layer in report.layers)
    stays = ({first, last} if config.space.keep_first_conv else {last}) | WHOLE.get(name, set())
    assert {frozen.name for frozen in report.frozen} == stays
    assert {layer.name for layer in report.layers if not layer.genes} == stays


@pytest.mark.parametrize("name", MASKED)
def test_kernels_and_strides_are_searched(name: str) -> None:
    network, genes = MASKED[name]
    _, macs, _ = NETWORKS[network]
    config = load_config(FOLDER / f"{name}.yaml")
    assert config.model.network == load_config(FOLDER / f"{network}.yaml").model.network
    report = pipeline.inspect(config)
    assert (report.macs, report.genes) == (macs, genes)


@pytest.mark.parametrize(("name", "message"), ABSENT.items(), ids=ABSENT.keys())
def test_each_experiment_names_the_source_of_its_data(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its files and without a network, it comes as far as the data set, in one line and no folder."""

    def unreachable(*_: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setattr(datasets, "download", unreachable)
    config, root, out = FOLDER / f"{name}.yaml", tmp_path / "empty", tmp_path / "out"
    result = CliRunner().invoke(app, ["run", str(config), "--set", f"data.root={root}", "--out", str(out), "--quiet"])
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: data.dataset: ")
    assert "the network is unreachable" in line
    assert re.search(message, line)
    assert not out.exists()


def test_the_recorded_generation_is_of_the_benchmark_s_search() -> None:
    """The input of `evoprune bench fitness` is that of the present defaults."""
    config = load_config(FOLDER / "bench_fitness.yaml")
    network = build_network(config.model.network, GREY, 10, torch.Generator().manual_seed(0))
    space = discover(network, torch.zeros(1, *GREY), config.space)
    population = read_population(FOLDER.parent / "results/bench_fitness_population.json", config, space)
    assert len(population.genomes) == config.search.population
    assert {len(genome) for genome in population.genomes} == {space.genes}


def test_fashion_mnist_is_found_in_the_folder_of_debian() -> None:
    if not DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    config = load_config(FOLDER / "fashion_cnn.yaml")
    data = load_data(config.data, config.seed)
    assert data.image_shape == NETWORKS["fashion_cnn"][0]
    assert len(data.train) == 60_000 - config.data.validation
    assert (len(data.validation), len(data.test), data.classes) == (config.data.validation, 10_000, 10)
