import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.data.images import ImageArray, channel_statistics
from evoprune.data.splits import Split, stratified_split


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
