"""From a source to the prepared form: split once by content, measure the train split, write all or nothing."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlml import catalogue
from mlml.config import Declared
from mlml.data import captions
from mlml.data.dataset import SPLITS, DataError, DataSpec, Raw

DEFAULT_TEST_FRACTION = 0.2
"""What `test_fraction` is when neither the entry gives it nor the source has a test split of its own."""

_CHUNK_BYTES = 2**24


def prepare(
    source_name: str,
    source_config: Declared,
    name: str,
    validation_fraction: float,
    test_fraction: float | None,
    folder: Path,
) -> DataSpec:
    """Read a source and write its prepared form, the same bytes each time.

    Args:
        source_name: a file of mlml/data/sources.
        source_config: the `Config` of its class.
        name: of the data set, as declared.
        validation_fraction: as in `mlml.config.DataEntry`.
        test_fraction: as in `mlml.config.DataEntry`.
        folder: where mlml/data/dataset.py's layout is written; what lies there is replaced once all is written.

    Raises:
        DataError: the source cannot be read, or a split would hold no images.
    """
    source = catalogue.method_class("data/sources", source_name)(source_config)
    raw: Raw = source.read()
    _check(raw, name)
    if raw.is_test is not None and test_fraction is not None:
        raise DataError(
            f"data.{name}.test_fraction: must not be given, because the source '{source_name}' has a test split of its "
            f"own ({int(raw.is_test.sum())} images); got {test_fraction}"
        )
    if raw.is_test is None and test_fraction is None:
        test_fraction = DEFAULT_TEST_FRACTION
    indices = split_by_content(raw, name, validation_fraction, test_fraction or 0.0)
    mean, std = channel_statistics(raw.images, indices["train"])
    if 0 in std:
        raise DataError(f"data.{name}: channel {std.index(0)} has one and the same value in every train image")

    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for split in SPLITS:
        _write_split(raw, indices[split], unfinished / split)
    sizes = {split: len(indices[split]) for split in SPLITS}
    train_captions = [raw.captions[index] for index in indices["train"]] if raw.captions is not None else []
    spec = DataSpec(
        name=name,
        channels=raw.images.shape[1],
        height=raw.images.shape[2],
        width=raw.images.shape[3],
        classes=raw.classes,
        captions=raw.captions is not None,
        mean=mean,
        std=std,
        sizes=sizes,
        source={
            "source": source_name,
            **source_config.model_dump(mode="json"),
            "validation_fraction": validation_fraction,
            "test_fraction": test_fraction,
        },
        hashes={path.relative_to(unfinished).as_posix(): _sha256(path) for path in sorted(unfinished.glob("*/*"))},
        dropped_duplicates=len(raw.images) - sum(sizes.values()),
        mask_classes=raw.mask_classes,
        vocabulary=captions.vocabulary(train_captions),
        caption_length=captions.longest(train_captions) if train_captions else 0,
    )
    (unfinished / "spec.json").write_text(spec.model_dump_json(indent=2) + "\n")
    _replace(folder, unfinished)
    return spec


def split_by_content(
    raw: Raw, name: str, validation_fraction: float, test_fraction: float
) -> dict[str, NDArray[np.int64]]:
    """Return the indices of each split, ascending; equal images always stand in the same one.

    The first 53 bits of an image's sha256 are its position in [0, 1): test lies below `test_fraction`, validation in
    the `validation_fraction` above that. With the source's own test split, test is that, images elsewhere that equal
    one of it are in no split, and `test_fraction` is 0.

    Raises:
        DataError: a split would be empty.
    """
    digests = [hashlib.sha256(image.tobytes()).digest() for image in raw.images]
    positions = np.array([(int.from_bytes(digest[:8], "big") >> 11) / 2**53 for digest in digests])
    test = positions < test_fraction
    dropped = np.zeros(len(digests), np.bool_)
    if raw.is_test is not None:
        test = raw.is_test
        in_test = {digest for digest, is_test in zip(digests, test, strict=True) if is_test}
        dropped = np.array([digest in in_test for digest in digests]) & ~test
    validation = ~test & (positions < test_fraction + validation_fraction)
    chosen = {"train": ~(test | validation | dropped), "validation": validation & ~dropped, "test": test}
    indices = {split: np.flatnonzero(chosen[split]).astype(np.int64) for split in SPLITS}
    for split in SPLITS:
        if not len(indices[split]):
            raise DataError(
                f"data.{name}: the {split} split would be empty: {len(set(digests))} different images with "
                f"validation_fraction {validation_fraction} and test_fraction {test_fraction}; change the fractions or "
                "give more images"
            )
    return indices


def channel_statistics(
    images: NDArray[np.uint8], indices: NDArray[np.int64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation (of the population) of each channel, in [0, 1].

    Sums of integers are exact, so the result depends neither on the machine nor on the order of the images.
    """
    num_channels = images.shape[1]
    total, squares = [0] * num_channels, [0] * num_channels
    for chunk in _chunks(images, indices):
        values = images[chunk].astype(np.int64)  # (k, c, h, w)
        sums, square_sums = values.sum((0, 2, 3)), (values * values).sum((0, 2, 3))
        total = [whole + int(part) for whole, part in zip(total, sums, strict=True)]
        squares = [whole + int(part) for whole, part in zip(squares, square_sums, strict=True)]
    count = len(indices) * images.shape[2] * images.shape[3]
    mean = tuple(part / (255 * count) for part in total)
    variance = [
        (count * square - part * part) / (255 * count) ** 2 for part, square in zip(total, squares, strict=True)
    ]
    return mean, tuple(float(np.sqrt(part)) for part in variance)


def _check(raw: Raw, name: str) -> None:
    """Refuse what a source must not yield."""
    found = []
    if raw.images.dtype != np.uint8 or raw.images.ndim != 4 or raw.images.shape[1] not in (1, 3):
        found.append(f"images must be (n, 1 or 3, h, w) uint8; got {raw.images.dtype} {raw.images.shape}")
    for what, values in (("labels", raw.labels), ("captions", raw.captions), ("is_test", raw.is_test)):
        if values is not None and len(values) != len(raw.images):
            found.append(f"{what} must be as many as images, {len(raw.images)}; got {len(values)}")
    if raw.labels is not None and len(raw.labels) and not 0 <= raw.labels.min() <= raw.labels.max() < len(raw.classes):
        found.append(f"labels must be 0 to {len(raw.classes) - 1}; got {raw.labels.min()} to {raw.labels.max()}")
    if raw.masks is not None:
        shape = (len(raw.images), *raw.images.shape[2:])
        if raw.masks.dtype != np.uint8 or raw.masks.shape != shape:
            found.append(f"masks must be {shape} uint8, as the images; got {raw.masks.dtype} {raw.masks.shape}")
        elif raw.masks.size and raw.masks.max() >= len(raw.mask_classes):
            found.append(f"masks must be 0 to {len(raw.mask_classes) - 1}; got {raw.masks.max()}")
    if found:
        raise DataError(f"data.{name}: {'; '.join(found)}")


def _write_split(raw: Raw, indices: NDArray[np.int64], folder: Path) -> None:
    folder.mkdir(parents=True)
    _write_pixels(raw.images, indices, folder / "images.npy")
    if raw.labels is not None:
        np.save(folder / "labels.npy", raw.labels[indices].astype(np.int64))
    if raw.captions is not None:
        (folder / "captions.json").write_text(json.dumps([raw.captions[index] for index in indices], indent=0) + "\n")
    if raw.masks is not None:
        _write_pixels(raw.masks, indices, folder / "masks.npy")


def _write_pixels(pixels: NDArray[np.uint8], indices: NDArray[np.int64], path: Path) -> None:
    """Write the images, or the masks, at `indices`, without holding all of them in memory."""
    shape = (len(indices), *pixels.shape[1:])
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    start = 0
    for chunk in _chunks(pixels, indices):
        written[start : start + len(chunk)] = pixels[chunk]
        start += len(chunk)
    written.flush()


def _chunks(images: NDArray[np.uint8], indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cut indices so that the images of each part take little memory."""
    size = max(1, _CHUNK_BYTES // max(1, images[0].nbytes))
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(folder: Path, finished: Path) -> None:
    """Put a finished folder in the place of another; until then the old one stands, flushed files and all."""
    for path in finished.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    finished.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
