import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlml.data import batches as batches_module
from mlml.data.batches import Batches

CPU = torch.device("cpu")


def numbered(n: int) -> np.ndarray:
    """Images whose only pixel is their number."""
    return np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)


def numbers(batch) -> list[int]:
    return (batch.images.flatten() * 255).round().int().tolist()


@given(n=st.integers(1, 60), batch_size=st.integers(1, 70), seed=st.integers(0, 5))
def test_an_epoch_is_a_permutation(n, batch_size, seed):
    batches = Batches(numbered(n), None, batch_size, seed, CPU)
    for epoch in range(2):
        seen = [k for b in range(batches.num_batches) for k in numbers(batches(epoch * batches.num_batches + b))]
        assert len(set(seen)) == len(seen) == batches.num_batches * min(batch_size, n)


def test_a_batch_depends_on_its_index_alone():
    one, other = (Batches(numbered(50), None, 8, 3, CPU) for _ in range(2))
    forwards = [numbers(one(n)) for n in range(20)]
    backwards = [numbers(other(n)) for n in reversed(range(20))][::-1]
    assert forwards == backwards
    assert forwards[0] != forwards[6]  # the next epoch is in another order
    assert forwards[0] != numbers(Batches(numbered(50), None, 8, 4, CPU)(0))


def test_ranks_share_the_global_batch():
    whole = Batches(numbered(50), None, 8, 3, CPU)
    parts = [Batches(numbered(50), None, 8, 3, CPU, rank, 2) for rank in range(2)]
    for n in range(8):
        assert numbers(parts[0](n)) + numbers(parts[1](n)) == numbers(whole(n))
    with pytest.raises(ValueError, match=r"must be a multiple of the number of processes, 2; got 9; take 8,"):
        Batches(numbered(50), None, 9, 3, CPU, 0, 2)


def test_streaming_equals_resident(monkeypatch, tmp_path):
    np.save(tmp_path / "images.npy", numbered(50))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    labels = np.arange(50)
    resident = Batches(mapped, labels, 8, 3, CPU)
    monkeypatch.setattr(batches_module, "RESIDENT_BYTES", 10)
    streamed = Batches(mapped, labels, 8, 3, CPU)
    for n in range(8):
        assert numbers(streamed(n)) == numbers(resident(n)) == streamed(n).labels.tolist()


def test_evaluation_sees_each_example_once_in_batches_of_nearly_equal_size():
    batches = Batches(numbered(33), None, 8, 0, CPU)
    index = batches.in_order()
    assert torch.cat(index).tolist() == list(range(33))
    assert {len(part) for part in index} == {6, 7}


@pytest.mark.parametrize(("size", "batch_size"), [(33, 8), (32, 8), (5, 8), (1, 8), (9, 4)])
def test_batches_over_the_whole_split_see_each_example_once(size, batch_size):
    parts = Batches(numbered(size), None, batch_size, 0, CPU).spread()
    assert sorted(torch.cat(parts).tolist()) == list(range(size))
    assert len(parts) == math.ceil(size / batch_size)
    assert max(map(len, parts)) <= batch_size
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_batch_of_sorted_data_has_examples_of_every_class():
    labels = np.arange(60) // 6
    batches = Batches(numbered(60), labels, 20, 0, CPU)
    assert [len(set(batches.at(part).labels.tolist())) for part in batches.spread()] == [10, 10, 10]
    assert batches.at(batches.sample(10)).labels.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("size", "count", "expected"), [(10, 5, [0, 2, 4, 6, 8]), (3, 5, [0, 1, 2]), (4, 3, [0, 1, 2])]
)
def test_a_sample_lies_at_equal_distances(size, count, expected):
    assert Batches(numbered(size), None, 4, 0, CPU).sample(count).tolist() == expected


def test_uint8_becomes_zero_to_one_and_features_pass():
    images = np.array([[[[0, 255]]]], dtype=np.uint8)
    assert Batches(images, None, 1, 0, CPU)(0).images.tolist() == [[[[0.0, 1.0]]]]
    features = np.array([[1.5, -2.0]], dtype=np.float32)
    assert Batches(features, None, 1, 0, CPU)(0).images.tolist() == [[1.5, -2.0]]


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="holds no images"):
        Batches(numbered(0), None, 1, 0, CPU)


def test_the_full_batch_is_the_whole_split():
    batches = Batches(numbered(50), None, "full", 3, CPU)
    assert (batches.batch_size, batches.num_batches) == (50, 1)
    assert sorted(numbers(batches(4))) == list(range(50))
