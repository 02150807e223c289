"""A small data set that every test can train on: four easy classes."""

import json
from pathlib import Path

import numpy as np

from mlml.data.captions import vocabulary
from mlml.data.dataset import SPLITS, DataSpec, PreparedData

NUM_CLASSES = 4
CAPTIONS = ("bright at top left", "bright at top right", "bright at bottom left", "bright at bottom right")
SIZES = {"train": 96, "validation": 24, "test": 24}


def blobs(num_images: int, seed: int, channels: int = 1, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright quadrant; the class is which quadrant."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % NUM_CLASSES
    images = rng.integers(0, 80, (num_images, channels, size, size))
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[:, row * half : (row + 1) * half, column * half : (column + 1) * half] += 150
    return images.astype(np.uint8), labels.astype(np.int64)


def masks(labels: np.ndarray, size: int = 8) -> np.ndarray:
    """The bright quadrants: 1 more than the image's class there, 0 elsewhere."""
    half = size // 2
    drawn = np.zeros((len(labels), size, size), np.uint8)
    for mask, label in zip(drawn, labels, strict=True):
        row, column = divmod(int(label), 2)
        mask[row * half : (row + 1) * half, column * half : (column + 1) * half] = 1 + label
    return drawn


def write_prepared(folder: Path, channels: int = 1, size: int = 8, labelled: bool = True) -> PreparedData:
    """Write a prepared data set of blobs."""
    for number, name in enumerate(SPLITS):
        (folder / name).mkdir(parents=True)
        images, labels = blobs(SIZES[name], number, channels, size)
        np.save(folder / name / "images.npy", images)
        if labelled:
            np.save(folder / name / "labels.npy", labels)
            np.save(folder / name / "masks.npy", masks(labels, size))
            (folder / name / "captions.json").write_text(json.dumps([CAPTIONS[label] for label in labels]))
    train = np.load(folder / "train" / "images.npy") / 255
    spec = DataSpec(
        name=folder.name,
        channels=channels,
        height=size,
        width=size,
        classes=tuple("abcd") if labelled else (),
        mean=tuple(train.mean((0, 2, 3))),
        std=tuple(train.std((0, 2, 3))),
        sizes=SIZES,
        source={"source": "blobs"},
        hashes={"train/images.npy": "0" * 64},
        mask_classes=("background", *"abcd") if labelled else (),
        captions=labelled,
        vocabulary=vocabulary(CAPTIONS) if labelled else (),
        caption_length=4 if labelled else 0,
    )
    (folder / "spec.json").write_text(json.dumps(spec.model_dump(mode="json")))
    return PreparedData(folder)
