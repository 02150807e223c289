"""Masks, from the source that draws them to the batches that a method takes."""

import hashlib
import json

import numpy as np
import pytest
import torch

from mlml import catalogue
from mlml.data import batches as batches_module
from mlml.data.batches import Batches
from mlml.data.dataset import SPLITS, DataError, DataSpec, PreparedData, Raw, Source, Split
from mlml.data.prepare import prepare
from mlml.data.sources import shapes

CPU = torch.device("cpu")


def drawn(**config):
    return catalogue.config_class("data/sources", "shapes")(**config)


@pytest.mark.parametrize("size", [16, 33])
def test_a_mask_of_shapes_is_where_the_picture_shows_at_least_half_of_the_shape(size):
    raw = shapes.Shapes(shapes.Shapes.Config(count=160, size=size, seed=3)).read()
    assert raw.mask_classes == ("background", *shapes.KINDS)
    assert raw.masks.dtype == np.uint8
    partly = 0
    for index, (image, mask) in enumerate(zip(raw.images.astype(int), raw.masks, strict=True)):
        shown = shapes.scene(3, index, size)
        channel = int(np.argmax([abs(level - shown.background) for level in shown.rgb]))
        contrast = shown.rgb[channel] - shown.background
        share = (image[channel] - shown.background) / contrast  # how much of a pixel is the shape, by its colour
        sixteenths = np.rint(16 * share)
        assert abs(16 * share - sixteenths).max() <= 16 * 0.5 / abs(contrast) + 1e-9
        assert np.array_equal(mask > 0, sixteenths >= 8)
        assert set(np.unique(mask)) == {0, 1 + shown.kind}
        assert raw.labels[index] + 1 == mask.max()
        partly += int(((sixteenths > 0) & (sixteenths < 16)).sum())
    assert partly > 1000  # the edges were put to the test


def test_masks_are_split_and_hashed_with_their_images(tmp_path):
    config = drawn(count=120, size=16)
    spec = prepare("shapes", config, "drawn", 0.2, None, tmp_path / "drawn")
    raw = shapes.Shapes(shapes.Shapes.Config(count=120, size=16)).read()
    by_image = {image.tobytes(): mask for image, mask in zip(raw.images, raw.masks, strict=True)}
    data = PreparedData(tmp_path / "drawn")
    assert data.spec.mask_classes == spec.mask_classes == ("background", *shapes.KINDS)
    for name in SPLITS:
        split = data.split(name)
        assert isinstance(split.masks, np.memmap)
        assert split.masks.shape == (spec.sizes[name], 16, 16)
        for image, mask in zip(split.images, split.masks, strict=True):
            assert np.array_equal(mask, by_image[image.tobytes()])
        digest = hashlib.sha256((tmp_path / "drawn" / name / "masks.npy").read_bytes()).hexdigest()
        assert spec.hashes[f"{name}/masks.npy"] == digest


def test_data_without_masks_is_written_as_it_was_before_there_were_masks(tmp_path):
    prepare("digits", catalogue.config_class("data/sources", "digits")(), "digits", 0.1, 0.2, tmp_path / "digits")
    content = json.loads((tmp_path / "digits" / "spec.json").read_text())
    assert list(content) == [
        *("name", "channels", "height", "width", "classes", "captions", "mean", "std", "sizes", "source", "hashes"),
        "dropped_duplicates",
    ]
    data = PreparedData(tmp_path / "digits")
    assert data.split("train").masks is None
    assert data.spec.mask_classes == ()
    assert "mask_classes" not in data.spec.model_dump(mode="json")
    again = data.spec.model_copy(update={"mask_classes": ("a", "b")})
    assert DataSpec.model_validate(again.model_dump(mode="json")) == again


@pytest.mark.parametrize(
    ("masks", "classes", "sentence"),
    [
        (np.zeros((50, 5, 5), np.uint8), ("a",), r"masks must be \(50, 5, 4\) uint8, as the images; got uint8 \(50, 5"),
        (np.zeros((50, 5, 4), np.int64), ("a",), r"masks must be \(50, 5, 4\) uint8, as the images; got int64"),
        (np.full((50, 5, 4), 2, np.uint8), ("a", "b"), "masks must be 0 to 1; got 2"),
    ],
)
def test_faulty_masks_are_named(masks, classes, sentence, monkeypatch, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (50, 1, 5, 4)).astype(np.uint8)

    class Given(Source):
        Config = drawn().__class__

        def read(self):
            return Raw(images, masks=masks, mask_classes=classes)

    monkeypatch.setattr(catalogue, "method_class", lambda folder, name: Given)
    with pytest.raises(DataError, match=f"^data.given: {sentence}"):
        prepare("given", drawn(), "given", 0.2, None, tmp_path / "given")


def test_batches_hand_masks_over_as_labels_of_pixels(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 1, 3, 4)).astype(np.uint8)
    np.save(tmp_path / "masks.npy", images[:, 0])
    masks = np.load(tmp_path / "masks.npy", mmap_mode="r")
    resident = Batches(images, masks, 8, 0, CPU)
    monkeypatch.setattr(batches_module, "RESIDENT_BYTES", 10)
    streamed = Batches(images, masks, 8, 0, CPU)
    for n in range(4):
        batch = resident(n)
        assert batch.labels.dtype == torch.int64
        assert torch.equal(batch.labels, (batch.images[:, 0] * 255).round().long())
        assert all(torch.equal(one, other) for one, other in zip(batch, streamed(n), strict=True))


def test_targets_are_what_a_method_says():
    images, labels, masks = np.zeros((2, 1, 3, 3)), np.array([0, 1]), np.ones((2, 3, 3))
    split = Split(images, labels, None, masks)
    assert split.targets("labels") is labels
    assert split.targets("masks") is masks
