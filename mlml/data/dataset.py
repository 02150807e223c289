"""The one prepared form of every data set: memory-mapped uint8 arrays and a `spec.json`.

    <folder>/spec.json                   DataSpec
    <folder>/<split>/images.npy          (n, c, h, w) uint8
    <folder>/<split>/labels.npy          (n,) int64; absent when the data has no labels
    <folder>/<split>/captions.json       n strings; absent when the data has no captions
    <folder>/<split>/masks.npy           (n, h, w) uint8, the class of each pixel; absent when the data has no masks

The splits are "train", "validation" and "test".
"""

import json
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt, SerializerFunctionWrapHandler, model_serializer

from mlml.config import Declared
from mlml.data import captions

SPLITS = ("train", "validation", "test")


class DataSpec(Declared):
    """What a data set tells a method about itself.

    Attributes:
        mean: per-channel mean of the train images, scaled to [0, 1].
        std: per-channel standard deviation of the same.
        sizes: number of images in each split.
        source: the declared source, with its numbers.
        hashes: sha256 of each file of the splits, by file name relative to the folder.
        mask_classes: of the pixels, the background first; none where the data has no masks.
        vocabulary: the words of the train captions: `mlml.data.captions`; none where the data has no captions.
        caption_length: words of the longest train caption; 0 where the data has none.
        dropped_duplicates: images left out because an equal one stands in the source's own test split.
    """

    name: str
    channels: PositiveInt
    height: PositiveInt
    width: PositiveInt
    classes: tuple[str, ...] = ()
    captions: bool = False
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizes: dict[str, int]
    source: dict[str, Any]
    hashes: dict[str, str]
    dropped_duplicates: int = 0
    mask_classes: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    caption_length: NonNegativeInt = 0

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the classes of masks, and words, where there are none: such data keeps the bytes it had before."""
        values: dict[str, Any] = dump(self)
        absent = {key for key in ("mask_classes", "vocabulary", "caption_length") if not values[key]}
        return {key: value for key, value in values.items() if key not in absent}


class Split(NamedTuple):
    """One split, as it lies on disk."""

    images: NDArray[np.uint8]  # (n, c, h, w), a memory map
    labels: NDArray[np.int64] | None  # (n,)
    captions: list[str] | None
    masks: NDArray[np.uint8] | None = None  # (n, h, w), a memory map
    vocabulary: tuple[str, ...] = ()
    caption_length: int = 0

    def targets(self, kind: str) -> NDArray[np.integer] | None:
        """What a method is told of the images: their "labels", their "masks", or the tokens of their "captions"."""
        if kind == "captions":
            known, length = self.vocabulary, self.caption_length
            return None if self.captions is None else captions.tokenise(self.captions, known, length)
        return self.masks if kind == "masks" else self.labels


class Raw(NamedTuple):
    """What a source yields: everything it has, in a fixed order."""

    images: NDArray[np.uint8]  # (n, c, h, w)
    labels: NDArray[np.int64] | None = None  # (n,)
    classes: tuple[str, ...] = ()
    captions: list[str] | None = None
    is_test: NDArray[np.bool_] | None = None  # (n,): the source's own test split, if it has one
    masks: NDArray[np.uint8] | None = None  # (n, h, w), indices of `mask_classes`
    mask_classes: tuple[str, ...] = ()  # the background first


class Source:
    """Base of every source: a class with a nested `Config` that reads images from somewhere.

    Attributes:
        labelled: whether the images have classes; checked against what depends on it before anything runs.
        masked: whether their pixels have; the same.
        captioned: whether they have captions; the same.
        channels: of the images; the same. None: not known before they are read, or told by a field of that name.
    """

    Config: ClassVar[type[Declared]]
    labelled: ClassVar[bool] = True
    masked: ClassVar[bool] = False
    captioned: ClassVar[bool] = False
    channels: ClassVar[int | None] = None

    def __init__(self, config: Any) -> None:
        self.config = config

    def read(self) -> Raw:
        """Return all images of the source.

        Raises:
            DataError: files are missing or broken; the sentence names them and says what to do.
        """
        raise NotImplementedError


class DataError(ValueError):
    """Data that cannot be used; the message names the place and the way out."""


class PreparedData:
    """A prepared data set, opened without reading it.

    Raises:
        DataError: the folder holds no prepared data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "spec.json"
        if not path.is_file():
            raise DataError(f"{folder}: holds no prepared data (no spec.json); run 'dvc repro prepare@{folder.name}'")
        self.spec = DataSpec.model_validate_json(path.read_text())

    def split(self, name: str) -> Split:
        """Open one of the splits "train", "validation", "test" as memory maps."""
        folder = self.folder / name
        labels, texts, masks = folder / "labels.npy", folder / "captions.json", folder / "masks.npy"
        return Split(
            np.load(folder / "images.npy", mmap_mode="r"),
            np.load(labels, mmap_mode="r") if labels.exists() else None,
            json.loads(texts.read_text()) if texts.exists() else None,
            np.load(masks, mmap_mode="r") if masks.exists() else None,
            self.spec.vocabulary,
            self.spec.caption_length,
        )
