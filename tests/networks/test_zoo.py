import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
from torch import nn

from evoprune.errors import NetworkError
from evoprune.networks.libraries import pretrained_weights
from evoprune.networks.zoo import build_network

GREY = (1, 28, 28)
COLOUR = (3, 32, 32)

USER_MODULE = """
from torch import nn

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

def shaped(classes, image_shape):
    c, h, w = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, classes))

def number():
    return 3

def failing():
    raise RuntimeError("first line\\nsecond line")

def leaving():
    raise SystemExit(0)

def without_memory():
    raise MemoryError

class Leaving(nn.Module):
    def forward(self, images):
        raise SystemExit
"""


def build(network: str, image_shape: tuple[int, int, int] = GREY, classes: int = 10, seed: int = 0) -> nn.Module:
    return build_network(network, image_shape, classes, torch.Generator().manual_seed(seed))


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"nets_zoo_user_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(USER_MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def test_resnet20_has_the_papers_size() -> None:
    # He et al. 2016, table 6: 0.27M; option B adds 1x1 convolutions: 16*32 + 2*32 + 32*64 + 2*64 = 2752
    model = build("resnet20", COLOUR)
    assert sum(p.numel() for p in model.parameters()) == 269722 + 2752


@pytest.mark.parametrize("network", ["resnet20", "resnet32", "resnet56", "resnet110", "mobilenetv2_small"])
def test_zoo_reads_grey_and_colour_images(network: str) -> None:
    for shape in (GREY, COLOUR):
        model = build(network, shape, 7).eval()
        assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    "network", ["4C3-MP2-10", "resnet20", "torchvision:squeezenet1_1", "timm:mobilenetv3_small_050"]
)
def test_weights_depend_on_the_generator_alone(network: str) -> None:
    shape = (3, 32, 32)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(network, shape, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = build(network, shape, seed=5).state_dict(), build(network, shape, seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_building_leaves_batch_norm_untouched_and_training_mode_on() -> None:
    model = build("4C3-MP2-10")
    assert model.training
    assert int(model.get_buffer("norm1.num_batches_tracked")) == 0


def test_torchvision_reads_grey_images_three_times() -> None:
    model = build("torchvision:resnet18").eval()
    images = torch.rand(1, 1, 28, 28)
    inner = model.get_submodule("network")
    torch.testing.assert_close(model(images), inner(images.expand(-1, 3, -1, -1)))


def test_user_modules(user_module: str) -> None:
    assert build(f"{user_module}:plain")(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    assert build(f"{user_module}:shaped", COLOUR, 4)(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize(
    ("callable_name", "message"),
    [
        ("number", "returned a int; it must return a torch Module"),
        ("failing", r"failed when called \(RuntimeError: first line\)"),
        ("leaving", r":leaving' failed when called \(SystemExit: 0\)"),
        ("without_memory", r":without_memory' failed when called \(MemoryError\)"),
        ("Leaving", r":Leaving' cannot read images of 1x28x28 \(SystemExit\)"),
        ("missing", "has no 'missing'"),
        ("", "must be module:attribute, as in"),
    ],
)
def test_mistakes_of_user_modules(user_module: str, callable_name: str, message: str) -> None:
    with pytest.raises(NetworkError, match=message) as caught:
        build(f"{user_module}:{callable_name}")
    assert "\n" not in str(caught.value)


def test_a_module_that_ends_the_process_when_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_zoo_leaving.py").write_text("raise SystemExit(0)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NetworkError, match=r"cannot import module 'nets_zoo_leaving' .* \(SystemExit: 0\); it must be"):
        build("nets_zoo_leaving:make")


def test_network_that_does_not_fit_the_data(user_module: str) -> None:
    with pytest.raises(NetworkError, match=r"cannot read images of 3x32x32"):
        build(f"{user_module}:plain", COLOUR)
    with pytest.raises(NetworkError, match=r"gives \(1, 10\) for one image.* the 4 classes"):
        build(f"{user_module}:plain", GREY, 4)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("resnet21", "there is no network 'resnet21'; the nearest is resnet"),
        ("torchvision:resnet19", "no classification network 'resnet19'; the nearest is resnet1"),
        ("torchvision:fcn_resnet50", "no classification network"),
        ("timm:resnet19", "timm has no network 'resnet19'; the nearest is resnet1.; timm.list_models"),
        ("timm:hf_hub:me/mine", "timm has no network 'hf_hub:me/mine'"),
        ("timm:resnet18.made_up", r"cannot build 'resnet18.made_up' for .* \(RuntimeError: Invalid pretrained tag"),
        ("no_such_module_of_mine:make", "cannot import module 'no_such_module_of_mine'"),
    ],
)
def test_unknown_names(network: str, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        build(network)


def test_pretrained_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(NetworkError, match=r"get https://\S+resnet18\S+pth and put it into .*checkpoints"):
        pretrained_weights("torchvision:resnet18")


def test_timm_reads_grey_images_three_times_and_others_as_they_are() -> None:
    model = build("timm:resnet18", classes=4).eval()
    images = torch.rand(1, 1, 28, 28)
    torch.testing.assert_close(model(images), model.get_submodule("network")(images.expand(-1, 3, -1, -1)))
    assert build("timm:resnet18", (4, 32, 32), 5)(torch.zeros(2, 4, 32, 32)).shape == (2, 5)


def test_timm_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Any = None
    monkeypatch.setitem(sys.modules, "timm", absent)
    with pytest.raises(NetworkError, match=r"timm:NAME needs the package timm; pip install 'evoprune\[timm\]'$"):
        build("timm:resnet18")


def test_pretrained_weights_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = timm.create_model("mobilenetv3_small_050")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: trained)
    weights = pretrained_weights("timm:mobilenetv3_small_050")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trained.state_dict().items())

    def no_network(name: str, pretrained: bool) -> None:
        raise URLError("no network")

    monkeypatch.setattr(timm, "create_model", no_network)
    remedy = r"get the file from https://huggingface.co/timm/mobilenetv3_small_050\S+ and name it in model.weights$"
    with pytest.raises(NetworkError, match=remedy):
        pretrained_weights("timm:mobilenetv3_small_050")
    with pytest.raises(NetworkError, match=r"timm has no pretrained weights of 'resnet18d_made_up|timm has no network"):
        pretrained_weights("timm:resnet18d_made_up")
    having = {name.partition(".")[0] for name in timm.list_models(pretrained=True)}
    [without, *_] = sorted({*timm.list_models("resnet*")} - having)
    with pytest.raises(NetworkError, match=f"timm has no pretrained weights of '{without}'"):
        pretrained_weights(f"timm:{without}")
