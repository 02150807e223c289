"""Images that lie in one sub-folder for each class, of any size, mode and format that Pillow reads."""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from mlml.config import Declared
from mlml.data.dataset import DataError, Raw, Source
from mlml.data.pixels import pixels


class _File(NamedTuple):
    path: Path
    label: int
    is_test: bool


class Folder(Source):
    """A folder of class folders, or two of these named `train` and `test`: then that test split is kept.

    Classes are the sub-folders' names in alphabetical order, and files are read in that order too. Photographs are
    turned upright by their EXIF tag; of an animation the first frame is taken. Whatever is not an image in a class
    folder is refused, with everything else that is wrong, before anything is written.
    """

    class Config(Declared):
        """Where the images lie, and what they are brought to.

        `size` is height and width in pixels, one number or [height, width]; `fit` says how an image of another shape
        gets there: "crop" cuts the largest centred part of that shape, "squash" distorts the whole image.
        """

        path: Annotated[str, Field(min_length=1)]
        size: PositiveInt | tuple[PositiveInt, PositiveInt]
        channels: Literal[1, 3] = 3
        fit: Literal["crop", "squash"] = "crop"

    def read(self) -> Raw:
        root = Path(self.config.path)
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; put one sub-folder of images for each class there")
        found: list[str] = []
        own_test = (root / "train").is_dir() and (root / "test").is_dir()
        parts = self._parts(root, found) if own_test else {root: False}
        classes = sorted({entry.name for part in parts for entry in part.iterdir() if entry.is_dir()})
        files = [file for part, is_test in parts.items() for file in self._files(part, classes, is_test, found)]
        size = (self.config.size,) * 2 if isinstance(self.config.size, int) else self.config.size
        images = np.empty((len(files), self.config.channels, *size), np.uint8)
        for image, file in zip(images, files, strict=True):
            try:
                image[...] = self._decode(file.path, size)
            except Exception as error:  # decoders raise whatever they like on a broken file; each file is named
                found.append(f"{file.path.relative_to(root)} ({_reason(error)})")
        if found:
            raise DataError(f"{root}: {len(found)} things cannot be used: {', '.join(found)}; repair or remove them")
        if not files:
            raise DataError(f"{root}: holds no class folders; put one sub-folder of images for each class there")
        labels = np.array([file.label for file in files], np.int64)
        is_test = np.array([file.is_test for file in files]) if own_test else None
        return Raw(images, labels, tuple(classes), is_test=is_test)

    def _parts(self, root: Path, found: list[str]) -> dict[Path, bool]:
        """The folders `train` and `test`; anything beside them is a fault."""
        found += [
            f"{entry.name} (stands beside 'train' and 'test')"
            for entry in sorted(root.iterdir())
            if entry.name not in ("train", "test")
        ]
        return {root / "train": False, root / "test": True}

    def _files(self, part: Path, classes: list[str], is_test: bool, found: list[str]) -> list[_File]:
        """Files of every class in one part; what does not fit the layout is a fault."""
        root = Path(self.config.path)
        strays = [entry for entry in sorted(part.iterdir()) if not entry.is_dir()]
        found += [f"{stray.relative_to(root)} (a file outside the class folders)" for stray in strays]
        files = []
        for label, name in enumerate(classes):
            folder = part / name
            entries = sorted(folder.iterdir()) if folder.is_dir() else []
            if not entries:
                found.append(f"{folder.relative_to(root)} ({'an empty' if folder.is_dir() else 'a missing'} class)")
            nested = [entry for entry in entries if entry.is_dir()]
            found += [f"{entry.relative_to(root)} (a folder inside a class folder)" for entry in nested]
            files += [_File(entry, label, is_test) for entry in entries if entry not in nested]
        return files

    def _decode(self, path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Read one image, (c, h, w)."""
        from PIL import Image, ImageOps

        with Image.open(path) as picture:
            picture.load()
            return pixels(ImageOps.exif_transpose(picture), self.config.channels, size, self.config.fit)


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__
