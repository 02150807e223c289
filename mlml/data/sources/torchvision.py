"""The image classification data sets of torchvision, by class name: from local files, else downloaded."""

import inspect
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, field_validator, model_validator

from mlml.config import Declared, suggest
from mlml.data.dataset import DataError, Raw, Source
from mlml.data.idx import read_idx
from mlml.data.pixels import pixels

# class name: (splits for training, joined by "+"; split for testing; where torchvision looks for the files under root)
_DATASETS = {
    "MNIST": ("train", "test", "MNIST/raw"),
    "FashionMNIST": ("train", "test", "FashionMNIST/raw"),
    "KMNIST": ("train", "test", "KMNIST/raw"),
    "EMNIST": ("train", "test", "EMNIST/raw"),
    "QMNIST": ("train", "test", "QMNIST/raw"),
    "USPS": ("train", "test", "usps.bz2 and usps.t.bz2"),
    "CIFAR10": ("train", "test", "cifar-10-batches-py"),
    "CIFAR100": ("train", "test", "cifar-100-python"),
    "SVHN": ("train", "test", "train_32x32.mat and test_32x32.mat"),
    "STL10": ("train", "test", "stl10_binary"),
    "Caltech101": ("", "", "caltech101"),
    "Caltech256": ("", "", "caltech256"),
    "CLEVRClassification": ("train", "val", "clevr"),
    "Country211": ("train+valid", "test", "country211"),
    "DTD": ("train+val", "test", "dtd"),
    "EuroSAT": ("", "", "eurosat/2750"),
    "FER2013": ("train", "test", "fer2013"),
    "FGVCAircraft": ("trainval", "test", "fgvc-aircraft-2013b"),
    "Flowers102": ("train+val", "test", "flowers-102"),
    "Food101": ("train", "test", "food-101"),
    "GTSRB": ("train", "test", "gtsrb"),
    "Imagenette": ("train", "val", "imagenette2"),
    "OxfordIIITPet": ("trainval", "test", "oxford-iiit-pet"),
    "PCAM": ("train+val", "test", "pcam"),
    "RenderedSST2": ("train+val", "test", "rendered-sst2"),
    "SEMEION": ("", "", "semeion.data"),
    "StanfordCars": ("train", "test", "stanford_cars"),
    "SUN397": ("", "", "SUN397"),
}

# class name: (prefix of the training files, prefix of the test files, kind of the label files)
_IDX = {
    "MNIST": ("train", "t10k", "labels-idx1-ubyte"),
    "FashionMNIST": ("train", "t10k", "labels-idx1-ubyte"),
    "KMNIST": ("train", "t10k", "labels-idx1-ubyte"),
    "EMNIST": ("emnist-{variant}-train", "emnist-{variant}-test", "labels-idx1-ubyte"),
    "QMNIST": ("qmnist-train", "qmnist-test", "labels-idx2-int"),
}

Part = tuple[list[NDArray[np.uint8]], list[int]]  # images as (1 or 3, h, w), labels


class TorchvisionDataset(Source):
    """A data set of torchvision.datasets that has one class for each image and fits into memory.

    The MNIST family is read from its idx files, plain or as `.gz`, under root/<dataset>/raw, root/<dataset> or root;
    the user's files are never written to, and a `.gz` packed by someone else is as good as the official one. The
    others are left to torchvision, which checks md5s and, when `download` is true, replaces files that differ.
    """

    class Config(Declared):
        """Which data set, where its files are or go, and what its images are brought to.

        `size` is height and width in pixels; none keeps the images', which then must all be of one size. `fit` is as
        in the source `folder`. `variant` is EMNIST's: balanced, byclass, bymerge, digits, letters or mnist.
        """

        dataset: str
        root: Annotated[str, Field(min_length=1)] = "data/raw"
        download: bool = True
        size: PositiveInt | None = None
        fit: Literal["crop", "squash"] = "crop"
        variant: Literal["balanced", "byclass", "bymerge", "digits", "letters", "mnist"] | None = None

        @field_validator("dataset")
        @classmethod
        def _known(cls, dataset: str) -> str:
            if dataset not in _DATASETS:
                raise ValueError(f"unknown data set {dataset!r}{suggest(dataset, _DATASETS)}")
            return dataset

        @model_validator(mode="after")
        def _one_variant(self) -> "TorchvisionDataset.Config":
            if (self.variant is not None) != (self.dataset == "EMNIST"):
                raise ValueError(f"'variant' is required for EMNIST and for no other data set; got {self.variant!r}")
            return self

    @property
    def root(self) -> Path:
        """Where the files are or go."""
        return Path(self.config.root)

    def read(self) -> Raw:
        from torchvision import datasets

        cls = getattr(datasets, self.config.dataset)
        train, test, names = self._idx_parts(cls) if self.config.dataset in _IDX else self._torchvision_parts(cls)
        images = self._stack(train[0] + test[0])
        labels = np.array(train[1] + test[1], np.int64)
        classes = tuple(names) if names else tuple(map(str, range(int(labels.max()) + 1)))
        is_test = np.arange(len(labels)) >= len(train[1]) if test[1] else None
        return Raw(
            images,
            labels,
            tuple(" ".join(name) if isinstance(name, tuple) else name for name in classes),
            None,
            is_test,
        )

    def _idx_parts(self, cls: type[Any]) -> tuple[Part, Part, Iterable[str]]:
        """Both parts of a member of the MNIST family, and its class names."""
        train, test, labels = _IDX[self.config.dataset]
        wanted = [
            f"{prefix.format(variant=self.config.variant)}-{kind}"
            for prefix in (train, test)
            for kind in ("images-idx3-ubyte", labels)
        ]
        found = self._idx_files(wanted)
        if found is None:
            self._download_idx(cls, wanted)
            found = self._idx_files(wanted)
            assert found is not None
        parts = []
        for images_path, labels_path in (found[:2], found[2:]):
            images, targets = read_idx(images_path), read_idx(labels_path)
            if images.ndim != 3 or images.dtype != np.uint8 or len(images) != len(targets):
                raise DataError(
                    f"{images_path}: must hold (n, h, w) uint8 images, one for each label of {labels_path.name}; "
                    f"got {images.dtype} {images.shape} and {len(targets)} labels"
                )
            classes = targets if targets.ndim == 1 else targets[:, 0]  # QMNIST: class, writer, ...
            parts.append(([image[None] for image in images], classes.astype(int).tolist()))
        names = cls.classes_split_dict[self.config.variant] if self.config.dataset == "EMNIST" else cls.classes
        return parts[0], parts[1], names

    def _idx_files(self, wanted: list[str]) -> list[Path] | None:
        """Paths of the wanted files, from the first folder that holds them all; None when no folder holds any."""
        root, incomplete = self.root, None
        for folder in (root / self.config.dataset / "raw", root / self.config.dataset, root):
            paths = [_plain_or_gz(folder / name) for name in wanted]
            found = [path for path in paths if path is not None]
            if len(found) == len(wanted):
                return found
            if found and incomplete is None:
                lacking = [name for name, path in zip(wanted, paths, strict=True) if path is None]
                incomplete = f"{folder}: holds {len(found)} of the {len(wanted)} files, but not {', '.join(lacking)}"
        if incomplete is not None:
            raise DataError(f"{incomplete}; add them, plain or as .gz, or remove the others to have all downloaded")
        return None

    def _download_idx(self, cls: type[Any], wanted: list[str]) -> None:
        """Let torchvision download into a folder of its own, and move the files to their place once all are there."""
        files = f"{', '.join(wanted)} (plain or as .gz)"
        if not self.config.download:
            raise DataError(self._missing("'download' is false", files))
        final = self.root / self.config.dataset / "raw"
        staging = self.root / f".{self.config.dataset}.download"
        split = {"split": self.config.variant} if self.config.variant else {}
        try:
            for train in (True, False):
                cls(staging, train=train, download=True, **split)
            final.mkdir(parents=True, exist_ok=True)
            for name in wanted:
                (staging / self.config.dataset / "raw" / name).replace(final / name)
        except Exception as error:  # torchvision raises what its download and unpacking meet
            raise DataError(self._missing(f"the download failed ({_one_line(error)})", files)) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _torchvision_parts(self, cls: type[Any]) -> tuple[Part, Part, Iterable[str]]:
        """Both parts of any other data set, as torchvision reads them, and its class names if it tells them."""
        train_splits, test_split, _ = _DATASETS[self.config.dataset]
        train = [self._open(cls, split) for split in train_splits.split("+")]
        test = [self._open(cls, test_split)] if test_split else []
        names = getattr(train[0], "classes", None) or getattr(train[0], "categories", None) or ()
        return self._examples(train), self._examples(test), names

    def _open(self, cls: type[Any], split: str) -> Any:
        """Open one split from the files under root; download them only when that fails."""
        known = inspect.signature(cls.__init__).parameters
        options: dict[str, Any] = {}
        if split:
            options = {"train": split == "train"} if "train" in known else {"split": split}
        attempts = [False, True] if self.config.download and "download" in known else [False]
        for download in attempts:
            if "download" in known:
                options["download"] = download
            try:
                return cls(self.root, **options)
            except Exception as error:  # torchvision raises what its files, downloads and decoders meet
                failure = error
        reason = f"the download failed ({_one_line(failure)})" if attempts[-1] else _one_line(failure)
        raise DataError(self._missing(reason, "its files, named and laid out as torchvision does")) from failure

    def _examples(self, splits: list[Any]) -> Part:
        images: list[NDArray[np.uint8]] = []
        labels: list[int] = []
        for split in splits:
            for number in range(len(split)):
                picture, label = split[number]
                if label is None:
                    raise DataError(f"{self.root}: the files of {self.config.dataset} hold images without labels")
                size = None if self.config.size is None else (self.config.size, self.config.size)
                images.append(pixels(picture, 1 if picture.mode in ("1", "L") else 3, size, self.config.fit))
                labels.append(int(label))
        return images, labels

    def _stack(self, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Images as (n, c, h, w), resized; grey ones among RGB ones are made RGB."""
        if self.config.size is not None and images[0].shape[1:] != (self.config.size, self.config.size):
            from PIL import Image

            size = (self.config.size, self.config.size)
            images = [pixels(Image.fromarray(image[0]), 1, size, self.config.fit) for image in images]
        shapes = sorted({image.shape[1:] for image in images})
        if len(shapes) > 1:
            raise DataError(
                f"{self.root}: the images of {self.config.dataset} have {len(shapes)} sizes, from "
                f"{shapes[0]} to {shapes[-1]} pixels; declare 'size'"
            )
        channels = max(image.shape[0] for image in images)
        return np.stack([np.broadcast_to(image, (channels, *shapes[0])) for image in images])

    def _missing(self, reason: str, files: str) -> str:
        place = _DATASETS[self.config.dataset][2]
        if self.config.dataset in _IDX:
            return f"{self.root}: has no {self.config.dataset}, and {reason}; put {files} into {self.root}/{place}"
        return f"{self.root}: has no usable {self.config.dataset} ({reason}); put {files}, under {self.root} as {place}"


def _plain_or_gz(path: Path) -> Path | None:
    packed = path.with_name(f"{path.name}.gz")
    return path if path.is_file() else packed if packed.is_file() else None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
