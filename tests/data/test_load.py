"""Data sets in their published formats, written small by the tests themselves."""

import gzip
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from evoprune.config.schema import DataConfig
from evoprune.data import datasets
from evoprune.data.image_folder import image_folder
from evoprune.data.load import Data, load_data
from evoprune.errors import DataError

RNG = np.random.default_rng(0)


def small(
    dataset: str,
    root: Path | None,
    validation: int = 10,
    calibration: int = 5,
    image_size: int | None = None,
) -> Data:
    config = DataConfig(
        dataset=dataset,
        root=str(root) if root is not None else None,
        validation=validation,
        calibration=calibration,
        image_size=image_size,
    )
    return load_data(config, seed=0)


def digits(count: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Random images whose first pixel says which image it is."""
    images = RNG.integers(0, 256, (count, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(count)
    return images, np.arange(count, dtype=np.uint8) % classes


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_digits(folder: Path, suffix: str = ".gz") -> None:
    folder.mkdir(parents=True)
    for name, count in (("train", 50), ("t10k", 20)):
        images, labels = digits(count)
        write_idx(folder / f"{name}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte{suffix}", labels)


def write_cifar(folder: Path, files: dict[str, int], labels_key: str) -> None:
    folder.mkdir(parents=True)
    for name, count in files.items():
        data = RNG.integers(0, 256, (count, 3072), np.uint8)
        content = {"data": data, labels_key: [index % 10 for index in range(count)]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


CIFAR10_FILES = {f"data_batch_{number}": 10 for number in range(1, 6)} | {"test_batch": 10}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def mnist5k() -> Data:
    return load_data(DataConfig(dataset="mnist5k", validation=500, calibration=100), seed=3)


def identities(data: Data) -> list[set[bytes]]:
    """The images of train, validation and test, each as its bytes."""
    return [
        {image.numpy().tobytes() for image in split.images.read(torch.arange(len(split)))}
        for split in (data.train, data.validation, data.test)
    ]


def test_mnist5k_splits_are_disjoint_and_balanced(mnist5k: Data) -> None:
    assert [len(split) for split in (mnist5k.train, mnist5k.calibration, mnist5k.validation, mnist5k.test)] == [
        *(3500, 100, 500, 1000)
    ]
    for split, each in ((mnist5k.train, 350), (mnist5k.calibration, 10), (mnist5k.test, 100)):
        assert torch.bincount(split.targets).tolist() == [each] * 10
    train, validation, test = identities(mnist5k)
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert mnist5k.image_shape == (1, 28, 28)


def test_training_images_are_normalised(mnist5k: Data) -> None:
    images, labels = mnist5k.train.tensors()
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert abs(images.mean()) < 1e-3
    assert abs(images.std() - 1) < 1e-3


def test_splits_depend_on_the_seed(mnist5k: Data) -> None:
    config = DataConfig(dataset="mnist5k", validation=500, calibration=50)
    same, other = load_data(config, seed=3), load_data(config, seed=4)
    assert identities(same) == identities(mnist5k)  # whatever the size of the calibration set
    assert identities(other)[1] != identities(mnist5k)[1]


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize(
    ("dataset", "place"),
    [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw"), ("mnist", "."), ("fashion-mnist", ".")],
)
def test_idx_files(tmp_path: Path, dataset: str, place: str, suffix: str) -> None:
    write_digits(tmp_path / "data" / place, suffix)
    data = small(dataset, tmp_path / "data")
    assert [len(data.train), len(data.validation), len(data.test)] == [40, 10, 20]
    assert data.image_shape == (1, 28, 28)
    assert data.classes == 10
    # The first pixel numbers the image, and its label is the number's last digit.
    assert (data.validation.images.read(torch.arange(10))[:, 0, 0, 0] % 10).tolist() == data.validation.targets.tolist()


def test_damaged_idx_file_is_named(tmp_path: Path) -> None:
    write_digits(tmp_path / "MNIST" / "raw")
    broken = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz is damaged \(EOFError"):
        small("mnist", tmp_path)


def test_label_out_of_range(tmp_path: Path) -> None:
    write_digits(tmp_path / "MNIST" / "raw")
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz", np.full(50, 12, np.uint8))
    with pytest.raises(DataError, match="training image with label 12; labels must be from 0 to 9"):
        small("mnist", tmp_path)
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz", np.zeros(49, np.uint8))
    with pytest.raises(DataError, match="50 training images but 49 labels"):
        small("mnist", tmp_path)


def test_cifar_batches(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py", CIFAR10_FILES, "labels")
    data = small("cifar10", tmp_path)
    assert [len(data.train), len(data.validation), len(data.test)] == [40, 10, 10]
    assert data.image_shape == (3, 32, 32)
    write_cifar(tmp_path / "cifar-100-python", {"train": 30, "test": 20}, "fine_labels")
    assert small("cifar100", tmp_path / "cifar-100-python").classes == 100


def test_svhn_files(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (32, 32, 3, 20), np.uint8)
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": np.arange(20)[:, None] % 10 + 1})
    data = small("svhn", tmp_path)
    assert sorted(data.test.targets.tolist()) == sorted(list(range(10)) * 2)
    assert data.test.targets[9] == 0  # the file's label 10 is the digit 0
    first = data.test.images.read(torch.tensor([0]))[0]
    assert first.permute(1, 2, 0).numpy().tolist() == images[..., 0].tolist()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist", "cifar10", "cifar100", "svhn"])
def test_without_internet_the_error_names_files_and_folder(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    for root, place in (
        (None, tmp_path / "cache" / "evoprune" / "data"),
        (tmp_path / "mine", tmp_path / "mine"),
    ):
        with pytest.raises(DataError, match=f"{dataset} is not in {place}") as caught:
            small(dataset, root)
        assert "http" in str(caught.value)
        assert "\n" not in str(caught.value)


def write_pictures(folder: Path, sizes: dict[str, tuple[int, int]], mode: str = "RGB", each: int = 6) -> None:
    for class_name, (width, height) in sizes.items():
        (folder / class_name).mkdir(parents=True)
        for number in range(each):
            pixels = RNG.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / class_name / f"{number}.png")


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_image_folder(tmp_path: Path, mode: str, channels: int) -> None:
    for part in ("train", "val"):
        write_pictures(tmp_path / part, {"cat": (12, 10), "dog": (12, 10)}, mode)
    data = small("imagefolder", tmp_path, validation=2, calibration=4)
    assert data.image_shape == (channels, 10, 12)
    assert [len(data.train), len(data.validation), len(data.test), data.classes] == [10, 2, 12, 2]
    assert sorted(data.validation.targets.tolist()) == [0, 1]
    assert data.input_format.class_names == ("cat", "dog")
    assert data.input_format.colours == ("RGB" if channels == 3 else "grey")


def test_image_folder_of_several_sizes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_pictures(tmp_path / part, {"cat": (12, 10), "dog": (20, 30)})
    with pytest.raises(DataError, match=r"data.image_size: .* has 20x30 pixels and others 12x10; set"):
        small("imagefolder", tmp_path, validation=2, calibration=4)
    data = small("imagefolder", tmp_path, validation=2, calibration=4, image_size=8)
    assert data.image_shape == (3, 8, 8)


def test_large_image_folder_is_read_from_its_files(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_pictures(tmp_path / part, {"cat": (12, 10), "dog": (12, 10)})
    in_memory, from_files = (image_folder(tmp_path, None, limit).train.images for limit in (10**6, 0))
    assert type(in_memory) is not type(from_files)
    chosen = torch.tensor([7, 2])
    assert torch.equal(in_memory.read(chosen), from_files.read(chosen))
    assert torch.equal(in_memory.select(chosen).read(torch.tensor([1])), from_files.read(torch.tensor([2])))


def test_mistakes_in_image_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root must be set for imagefolder"):
        small("imagefolder", None)
    with pytest.raises(DataError, match="has no folder train"):
        small("imagefolder", tmp_path)
    write_pictures(tmp_path / "train", {"cat": (8, 8)})
    write_pictures(tmp_path / "test", {"cow": (8, 8)})
    with pytest.raises(DataError, match=r"test/cow must have one of its name in .*train;"):
        small("imagefolder", tmp_path)
    (tmp_path / "test" / "cow").rename(tmp_path / "test" / "cat")
    picture = tmp_path / "test" / "cat" / "0.png"
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(DataError, match=r"0\.png cannot be read as an image"):
        small("imagefolder", tmp_path)
    picture.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.png cannot be read as an image"):
        small("imagefolder", tmp_path)


def test_hidden_files_and_folders_are_no_classes_and_no_images(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_pictures(tmp_path / part, {"cat": (8, 8), "dog": (8, 8)})
        write_pictures(tmp_path / part, {".ipynb_checkpoints": (8, 8), "cat/.ipynb_checkpoints": (9, 9)})
        (tmp_path / part / "dog" / "._0.png").write_bytes(b"a resource fork")
    data = small("imagefolder", tmp_path, validation=2, calibration=4)
    assert (data.classes, len(data.train), len(data.test)) == (2, 10, 12)


def test_a_class_folder_without_images_is_named(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_pictures(tmp_path / part, {"cat": (8, 8), "dog": (8, 8)})
    (tmp_path / "train" / "zebra").mkdir()
    with pytest.raises(DataError, match=r"train/zebra must have images, but it has none; put some into it, or remove"):
        small("imagefolder", tmp_path)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_images_of_16_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257], [128 * 257, 65535]], np.uint16)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            path = tmp_path / part / name / f"0.{suffix}"
            if suffix == "pgm":
                path.write_bytes(b"P5 2 2 65535\n" + values.astype(">u2").tobytes())
            else:
                Image.fromarray(values).save(path)
    images = image_folder(tmp_path, None).train.images
    assert images.read(torch.tensor([1])).tolist() == [[[[0, 1], [128, 255]]]]


def test_images_of_floats_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
        Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / part / "cat" / "0.tif")
    with pytest.raises(DataError, match=r"0\.tif cannot be read .*type F have no fixed range; save 8 or 16 bits"):
        image_folder(tmp_path, None)


USER_MODULE = r"""
import numpy as np, torch
from torch.utils.data import TensorDataset

labels = np.arange(30) % 3

def arrays():
    return np.zeros((30, 8, 8), np.uint8), labels, np.ones((6, 8, 8), np.uint8), labels[:6]

def floats():
    return np.full((30, 3, 8, 8), 2.0), labels, np.ones((6, 3, 8, 8)), labels[:6]

def pair():
    made = TensorDataset(torch.rand(30, 3, 8, 8), torch.from_numpy(labels))
    return made, made

def three():
    return 1, 2, 3

def wrong_shapes():
    return np.zeros((30, 8, 8), np.uint8), labels, np.ones((6, 9, 9), np.uint8), labels[:6]

def wrong_test_label():
    return np.zeros((30, 8, 8), np.uint8), labels, np.ones((6, 8, 8), np.uint8), labels[:6] + 1

def few_rows_of_channels_last():
    return np.zeros((30, 2, 8, 3), np.uint8), labels, np.ones((6, 2, 8, 3), np.uint8), labels[:6]

def not_finite():
    images = np.zeros((30, 8, 8))
    images[7, 0, 0], images[9, 1, 1] = np.nan, np.inf
    return images, labels, images, labels

def huge_labels():
    return np.zeros((30, 8, 8)), labels * 10**12, np.zeros((30, 8, 8)), labels

def leaving():
    raise SystemExit(0)

def without_memory():
    raise MemoryError

def endless():
    return endless()

class OfItsOwn(BaseException):
    pass

def of_its_own():
    raise OfItsOwn("first line\nsecond")

class Leaving:
    def __len__(self):
        return 3
    def __getitem__(self, index):
        raise SystemExit("no image")

def leaving_later():
    return Leaving(), Leaving()

def channels_last():
    return np.zeros((30, 8, 8, 3), np.uint8), labels, np.ones((6, 8, 8, 3), np.uint8), labels[:6]
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"nets_data_user_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(USER_MODULE)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize(("made", "channels"), [("arrays", 1), ("floats", 3), ("pair", 3)])
def test_user_data(user_module: str, made: str, channels: int) -> None:
    data = small(f"{user_module}:{made}", None)
    assert data.image_shape == (channels, 8, 8)
    assert data.classes == 3
    assert len(data.train) == 20


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("three", "must return train images, .* not 3 values"),
        ("wrong_shapes", "test images of 1x9x9 but training images of 1x8x8"),
        ("wrong_test_label", "test image with label 3; labels must be from 0 to 2"),
        ("channels_last", r"must be \(n, h, w\) or \(n, c, h, w\), not \(30, 8, 8, 3\)"),
        ("few_rows_of_channels_last", r"not \(30, 2, 8, 3\); bring channels forward with images.transpose"),
        ("not_finite", r"train images must be finite .* 2 of 30 .* \(the first is image 7,"),
        ("huge_labels", "train labels must be below 1,000,000, not 2000000000000; number the classes"),
        ("leaving", r":leaving' failed \(SystemExit: 0\); it is called without arguments"),
        ("without_memory", r":without_memory' failed \(MemoryError\)"),
        ("endless", r":endless' failed \(RecursionError: maximum recursion"),
        ("of_its_own", r":of_its_own' failed \(OfItsOwn: first line\)"),
        ("leaving_later", r":leaving_later': train cannot be read from the Leaving \(SystemExit: no image\)"),
        ("missing", "has no 'missing'"),
    ],
)
def test_mistakes_in_user_data(user_module: str, made: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        small(f"{user_module}:{made}", None)


def test_splits_that_do_not_fit_name_the_numbers(user_module: str) -> None:
    with pytest.raises(DataError, match=r"data.validation: 30 images .* the 30 training images .* take 29"):
        small(f"{user_module}:arrays", None, validation=30)
    with pytest.raises(DataError, match=r"data.calibration: 11 images .* the 10 .* took 20; take 10"):
        small(f"{user_module}:arrays", None, validation=20, calibration=11)


def test_unknown_data_set_names_the_nearest() -> None:
    with pytest.raises(DataError, match="no data set 'cifar-10'; the nearest is cifar10"):
        small("cifar-10", None)
