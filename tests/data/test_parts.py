import numpy as np
import pytest
from blobs import write_prepared

from mlml.data.parts import Reduced, nested


def uneven(folder):
    """Train labels of which class 3 has two images only."""
    data = write_prepared(folder)
    labels = np.repeat(np.arange(4), [50, 34, 10, 2])
    np.save(data.folder / "train" / "labels.npy", np.random.default_rng(0).permutation(labels))
    return data


@pytest.mark.parametrize(("fraction", "counts"), [(0.01, [1, 1, 1, 1]), (0.1, [5, 3, 1, 1]), (1.0, [50, 34, 10, 2])])
def test_each_class_has_its_share_and_at_least_one(tmp_path, fraction, counts):
    data = uneven(tmp_path / "blobs")
    for seed in (0, 1):
        part = Reduced(data, nested(data, fraction, seed))
        assert np.bincount(part.split("train").labels, minlength=4).tolist() == counts
        assert len(part.split("test").labels) == len(part.split("validation").labels) == 24


def test_one_percent_lies_in_ten_and_ten_in_all(tmp_path):
    data = uneven(tmp_path / "blobs")
    parts = [set(nested(data, fraction, 3).tolist()) for fraction in (0.01, 0.1, 1.0)]
    assert parts[0] < parts[1] < parts[2] == set(range(96))
    assert set(nested(data, 0.1, 4).tolist()) != parts[1]
