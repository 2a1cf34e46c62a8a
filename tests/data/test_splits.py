import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evoprune.data.images import ImageArray, ImageFiles, channel_statistics
from evoprune.data.splits import Split, stratified_split
from evoprune.errors import DataError


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_class_is_within_one_of_its_share(data: st.DataObject) -> None:
    labels = np.array(data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=80)), np.int64)
    size = data.draw(st.integers(0, len(labels)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    chosen, rest = stratified_split(labels, size, np.random.default_rng(seed))
    assert len(chosen) == size
    assert sorted([*chosen, *rest]) == list(range(len(labels)))
    for label in range(7):
        share = size * np.count_nonzero(labels == label) / len(labels)
        assert abs(np.count_nonzero(labels[chosen] == label) - share) < 1
    again, _ = stratified_split(labels, size, np.random.default_rng(seed))
    assert np.array_equal(chosen, again)


def test_a_size_beyond_the_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"0\.\.3 .* not 4"):
        stratified_split(np.zeros(3, np.int64), 4, np.random.default_rng(0))


def test_statistics_and_normalisation_by_hand() -> None:
    # Channel 0 is half 0, half 255: mean 0.5, deviation 0.5.
    # Channel 1 is always 51: mean 0.2, deviation taken as 1.
    pixels = torch.tensor([[[[0, 255]], [[51, 51]]], [[[255, 0]], [[51, 51]]]], dtype=torch.uint8)
    images = ImageArray(pixels)
    mean, std = channel_statistics(images)
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.2]))
    torch.testing.assert_close(std, torch.tensor([0.5, 1.0]))
    split = Split(images, torch.tensor([3, 4]), mean, std)
    batch, labels = split.batch(np.array([1]))
    torch.testing.assert_close(batch, torch.tensor([[[[1.0, -1.0]], [[0.0, 0.0]]]]))
    assert labels.tolist() == [4]
    assert split.tensors()[0].shape == (2, 2, 1, 2)


def test_a_fingerprint_changes_with_every_part_of_a_split() -> None:
    pixels = torch.arange(2400, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(1200, 1, 2, 1)
    split = Split(ImageArray(pixels), torch.arange(1200) % 3, torch.tensor([0.5]), torch.tensor([0.25]))
    copied = Split(ImageArray(pixels.clone()), split.targets.clone(), split.mean.clone(), split.std.clone())
    assert split.fingerprint() == copied.fingerprint()
    assert len(split.fingerprint()) == 64
    one_pixel, labels = pixels.clone(), split.targets.clone()
    one_pixel[1100, 0, 1, 0] += 1
    labels[1199] = 0
    order = torch.arange(1200).flip(0)
    others = [
        replace(split, images=ImageArray(one_pixel)),
        replace(split, images=ImageArray(pixels.float())),
        replace(split, images=ImageArray(pixels.reshape(1200, 1, 1, 2))),
        replace(split, images=ImageArray(pixels.reshape(1200, 2, 1, 1))),
        replace(split, images=ImageArray(pixels[order]), targets=split.targets[order]),
        replace(split, targets=labels),
        replace(split, mean=torch.tensor([0.25])),
        replace(split, std=torch.tensor([0.5])),
        replace(split, mean=split.std, std=split.mean),
    ]
    assert len({split.fingerprint(), *(other.fingerprint() for other in others)}) == len(others) + 1


def test_a_fingerprint_of_other_layouts_is_the_same() -> None:
    pixels = torch.arange(24.0).reshape(2, 3, 2, 2)
    last = pixels.contiguous(memory_format=torch.channels_last)
    one, other = (Split(ImageArray(p), torch.tensor([0, 1]), torch.zeros(3), torch.ones(3)) for p in (pixels, last))
    assert one.fingerprint() == other.fingerprint()


def image_files(root: Path, names: list[str]) -> Split:
    images = ImageFiles(root, tuple(root / name for name in names), (1, 2, 2))
    return Split(images, torch.zeros(len(names), dtype=torch.int64), torch.zeros(1), torch.ones(1))


def test_a_fingerprint_of_files_depends_on_names_sizes_and_times(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in ("a.png", "b.png"):
            Image.new("L", (2, 2)).save(tmp_path / folder / name)
            os.utime(tmp_path / folder / name, ns=(10**18, 10**18))
    split = image_files(tmp_path / "one", ["a.png", "b.png"])
    before = split.fingerprint()
    assert before == image_files(tmp_path / "two", ["a.png", "b.png"]).fingerprint()
    assert before != image_files(tmp_path / "one", ["b.png", "a.png"]).fingerprint()
    assert before != replace(split, images=replace(split.images, shape=(3, 2, 2))).fingerprint()  # type: ignore[type-var]
    os.utime(tmp_path / "one" / "b.png", ns=(10**18, 10**18 + 1))
    assert before != split.fingerprint()
    with (tmp_path / "one" / "b.png").open("ab") as file:
        file.write(b"0")
    os.utime(tmp_path / "one" / "b.png", ns=(10**18, 10**18))
    assert before != split.fingerprint()
    (tmp_path / "one" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png cannot be read"):
        split.fingerprint()
