import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlml import catalogue
from mlml.config import DataEntry, DeclarationError, Declared, parse
from mlml.data.dataset import SPLITS, DataError, DataSpec, PreparedData, Raw, Source
from mlml.data.prepare import channel_statistics, prepare, split_by_content

QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Given(Source):
    """A source that yields what a test gives it."""

    class Config(Declared):
        pass

    raw: Raw

    def read(self) -> Raw:
        return self.raw


@pytest.fixture
def give(monkeypatch, tmp_path):
    """Prepare a Raw as the data set "given"."""
    monkeypatch.setattr(catalogue, "method_class", lambda folder, name: Given)

    def run(raw: Raw, validation_fraction=0.2, test_fraction=None, folder: Path = tmp_path / "given") -> DataSpec:
        monkeypatch.setattr(Given, "raw", raw, raising=False)
        return prepare("given", Given.Config(), "given", validation_fraction, test_fraction, folder)

    return run


def noise(count: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, 5, 4)).astype(np.uint8)


def few_different(seed: int, count: int) -> np.ndarray:
    """Images of which many are equal: there are 64 different ones."""
    return np.random.default_rng(seed).integers(0, 8, (count, 1, 1, 2)).astype(np.uint8)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def shapes_config(**config):
    return catalogue.config_class("data/sources", "shapes")(**config)


# --- the prepared form -----------------------------------------------------------------------------------------------


def test_every_image_comes_back_with_its_label_and_caption(give, tmp_path):
    images = noise(300)
    captions = [f"picture {number}, ü" for number in range(300)]
    raw = Raw(images, np.arange(300) % 7, tuple("abcdefg"), captions)
    spec = give(raw)
    data = PreparedData(tmp_path / "given")
    assert data.spec == spec
    seen = []
    for name in SPLITS:
        split = data.split(name)
        assert isinstance(split.images, np.memmap)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert len(split.images) == len(split.labels) == len(split.captions) == spec.sizes[name]
        numbers = [int(caption.split()[1].rstrip(",")) for caption in split.captions]
        assert np.array_equal(split.images, images[numbers])
        assert split.labels.tolist() == [number % 7 for number in numbers]
        assert split.captions == [captions[number] for number in numbers]
        assert numbers == sorted(numbers)
        seen += numbers
    assert sorted(seen) == list(range(300))
    assert (spec.name, spec.channels, spec.height, spec.width) == ("given", 3, 5, 4)
    assert spec.classes == tuple("abcdefg")
    assert spec.captions
    assert spec.source == {"source": "given", "validation_fraction": 0.2, "test_fraction": 0.2}
    assert spec.dropped_duplicates == 0


def test_large_splits_are_written_in_parts(give, tmp_path, monkeypatch):
    raw = Raw(noise(100))
    give(raw, folder=tmp_path / "whole")
    monkeypatch.setattr("mlml.data.prepare._CHUNK_BYTES", 7 * raw.images[0].nbytes)
    give(raw, folder=tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_data_without_labels_and_captions(give, tmp_path):
    spec = give(Raw(noise(50, channels=1)))
    split = PreparedData(tmp_path / "given").split("train")
    assert split.labels is None
    assert split.captions is None
    assert (spec.classes, spec.captions, spec.channels) == ((), False, 1)


def test_hashes_are_of_the_files(give, tmp_path):
    spec = give(Raw(noise(50), np.zeros(50, np.int64), ("a",), ["x"] * 50))
    files = contents(tmp_path / "given")
    assert set(spec.hashes) == {
        f"{split}/{name}" for split in SPLITS for name in ("images.npy", "labels.npy", "captions.json")
    }
    assert set(files) == {*spec.hashes, "spec.json"}
    assert all(hashlib.sha256(files[path]).hexdigest() == digest for path, digest in spec.hashes.items())


def test_two_runs_write_the_same_bytes_and_replace_what_was_there(tmp_path):
    config = shapes_config(count=80, size=16)
    for folder in ("one", "two"):
        prepare("shapes", config, "s", 0.1, 0.2, tmp_path / folder)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    (tmp_path / "two" / "stale.txt").touch()
    prepare("shapes", shapes_config(count=90, size=16), "s", 0.1, 0.2, tmp_path / "two")
    assert contents(tmp_path / "one") != contents(tmp_path / "two")
    prepare("shapes", config, "s", 0.1, 0.2, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_an_interrupted_write_leaves_the_old_form_and_does_not_hinder_the_next(give, tmp_path, monkeypatch):
    give(Raw(noise(40)))
    before = contents(tmp_path / "given")

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            give(Raw(noise(60, seed=1)))
    assert contents(tmp_path / "given") == before
    assert give(Raw(noise(60, seed=1))).sizes == PreparedData(tmp_path / "given").spec.sizes
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


# --- splits ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(60, 100), st.floats(0.25, 0.35), st.floats(0.25, 0.35))
@settings(QUICK, max_examples=60)
def test_equal_images_never_stand_on_two_sides(seed, count, validation_fraction, test_fraction):
    images = few_different(seed, count)
    indices = split_by_content(Raw(images), "x", validation_fraction, test_fraction)
    assert sorted(np.concatenate(list(indices.values())).tolist()) == list(range(len(images)))
    sides = [{images[index].tobytes() for index in indices[split]} for split in SPLITS]
    assert sum(map(len, sides)) == len(set.union(*sides)) < count


@given(st.integers(0, 2**32), st.integers(60, 100), st.floats(0.1, 0.2))
@settings(QUICK, max_examples=60)
def test_nothing_of_the_sources_test_split_stands_elsewhere(seed, count, share):
    images = few_different(seed, count)
    is_test = np.arange(count) < share * count
    indices = split_by_content(Raw(images, is_test=is_test), "x", 0.3, 0.0)
    assert indices["test"].tolist() == np.flatnonzero(is_test).tolist()
    test = {image.tobytes() for image in images[is_test]}
    kept = [index for index, image in enumerate(images) if not is_test[index] and image.tobytes() not in test]
    assert sorted([*indices["train"], *indices["validation"]]) == kept
    sides = [{images[index].tobytes() for index in indices[split]} for split in ("train", "validation")]
    assert not sides[0] & sides[1]


def test_the_rule_of_the_split_is_the_documented_one():
    images = noise(200)
    indices = split_by_content(Raw(images), "x", 0.25, 0.5)
    for index, image in enumerate(images):
        position = int(hashlib.sha256(image.tobytes()).hexdigest(), 16) / 2**256
        expected = "test" if position < 0.5 else "validation" if position < 0.75 else "train"
        assert index in indices[expected]


def test_splits_have_about_the_declared_sizes_and_stay_when_data_is_added():
    images = noise(4000, channels=1)
    indices = split_by_content(Raw(images), "x", 0.1, 0.2)
    sizes = [len(indices[split]) for split in SPLITS]
    assert sizes == pytest.approx([2800, 400, 800], abs=90)  # three standard deviations
    fewer = split_by_content(Raw(images[:1000]), "x", 0.1, 0.2)
    assert all(np.array_equal(fewer[split], indices[split][indices[split] < 1000]) for split in SPLITS)


def test_the_sources_own_test_split_is_kept_and_its_doubles_are_dropped(give, tmp_path):
    images = noise(100)
    images[[3, 50]] = images[90]
    images[95] = images[90]  # twice in the test split: kept
    is_test = np.arange(100) >= 80
    spec = give(Raw(images, np.arange(100) % 2, ("a", "b"), is_test=is_test))
    assert spec.dropped_duplicates == 2
    assert spec.sizes["test"] == 20
    assert spec.sizes["train"] + spec.sizes["validation"] == 78
    assert spec.source["test_fraction"] is None
    test = PreparedData(tmp_path / "given").split("test")
    assert np.array_equal(test.images, images[80:])
    assert test.labels.tolist() == [0, 1] * 10


def test_a_test_fraction_beside_the_sources_own_test_split_is_refused(give, tmp_path):
    raw = Raw(noise(20), is_test=np.arange(20) >= 15)
    with pytest.raises(DataError, match=r"data.given.test_fraction: must not be given.* \(5 images\); got 0.2$"):
        give(raw, test_fraction=0.2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("count", "validation_fraction", "test_fraction", "split"),
    [(30, 0.5, 0.5, "train"), (30, 0.0001, 0.3, "validation"), (30, 0.3, 0.0001, "test"), (1, 0.3, 0.3, "")],
)
def test_an_empty_split_is_refused(give, tmp_path, count, validation_fraction, test_fraction, split):
    images = noise(count)
    with pytest.raises(
        DataError, match=f"data.given: the {split}.* split would be empty: {count} different images with"
    ):
        give(Raw(images), validation_fraction, test_fraction)
    assert not list(tmp_path.iterdir())


def test_a_test_split_of_the_source_can_be_empty_too(give):
    with pytest.raises(DataError, match="the test split would be empty"):
        give(Raw(noise(30), is_test=np.zeros(30, np.bool_)))


# --- statistics ------------------------------------------------------------------------------------------------------


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5))),
    st.data(),
)
@settings(QUICK, max_examples=60)
def test_mean_and_std_are_numpys(images, data):
    indices = data.draw(st.lists(st.integers(0, len(images) - 1), min_size=1, unique=True))
    mean, std = channel_statistics(images, np.array(sorted(indices)))
    chosen = images[sorted(indices)] / 255
    assert mean == pytest.approx(chosen.mean((0, 2, 3)), abs=1e-12)
    assert std == pytest.approx(chosen.std((0, 2, 3)), abs=1e-7)


def test_statistics_do_not_depend_on_the_chunks(monkeypatch):
    images, indices = noise(50), np.arange(50)
    whole = channel_statistics(images, indices)
    monkeypatch.setattr("mlml.data.prepare._CHUNK_BYTES", 7 * images[0].nbytes)
    assert channel_statistics(images, indices) == whole
    assert channel_statistics(images, indices[::-1]) == whole


def test_statistics_are_of_train_alone(give, tmp_path):
    spec = give(Raw(noise(200)))
    train = PreparedData(tmp_path / "given").split("train").images / 255
    assert spec.mean == pytest.approx(train.mean((0, 2, 3)), abs=1e-12)
    assert spec.std == pytest.approx(train.std((0, 2, 3)), abs=1e-12)


def test_a_channel_of_one_value_is_refused(give):
    images = noise(50)
    images[:, 1] = 77
    with pytest.raises(DataError, match=r"data.given: channel 1 has one and the same value"):
        give(Raw(images))


# --- what a source must not yield ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (Raw(noise(9).astype(np.float32)), "images must be .* got float32"),
        (Raw(noise(9)[:, 0]), r"images must be .* got uint8 \(9, 5, 4\)"),
        (Raw(noise(9, channels=2)), r"images must be .* got uint8 \(9, 2, 5, 4\)"),
        (Raw(noise(9), np.zeros(8, np.int64), ("a",)), "labels must be as many as images, 9; got 8"),
        (Raw(noise(9), np.arange(9), tuple("abc")), "labels must be 0 to 2; got 0 to 8"),
        (Raw(noise(9), np.arange(9) - 1, tuple("abcdefghi")), "labels must be 0 to 8; got -1 to 7"),
        (Raw(noise(9), captions=["x"]), "captions must be as many as images, 9; got 1"),
        (Raw(noise(9), is_test=np.ones(3, np.bool_)), "is_test must be as many as images, 9; got 3"),
        (Raw(noise(0)), "split would be empty: 0 different images"),
    ],
)
def test_faulty_sources_are_named(give, raw, sentence):
    with pytest.raises(DataError, match=f"^data.given: .*{sentence}"):
        give(raw)


# --- end to end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "config"), [("digits", {"size": 8}), ("shapes", {"count": 60}), ("photos", {"count": 60})]
)
def test_embedded_sources_need_nothing(source, config, tmp_path):
    config = catalogue.config_class("data/sources", source)(**config)
    spec = prepare(source, config, source, 0.1, None, tmp_path / source)
    assert json.loads((tmp_path / source / "spec.json").read_text())["source"]["source"] == source
    assert min(spec.sizes.values()) > 0
    assert bool(spec.classes) == (source != "photos")
    assert all(0 < mean < 1 for mean in spec.mean)


def test_the_entry_of_a_data_set():
    entry = parse(DataEntry, {"source": "digits"}, "data.x")
    assert (entry.validation_fraction, entry.test_fraction) == (0.1, None)
    for values, sentence in (
        ({"source": "digits", "validation_fraction": 0}, "data.x.validation_fraction: must be greater than 0; got 0"),
        ({"source": "digits", "test_fraction": 1}, "data.x.test_fraction: must be less than 1; got 1"),
        ({"source": "digits", "test_frction": 0.1}, "data.x.test_frction: unknown key; did you mean 'test_fraction'"),
        ({}, "data.x.source: required"),
    ):
        with pytest.raises(DeclarationError, match=sentence):
            parse(DataEntry, values, "data.x")
