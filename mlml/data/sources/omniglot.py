"""Omniglot: handwritten characters of many alphabets, 20 drawings of each (Lake et al. 2015, Science 350)."""

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mlml.config import Declared
from mlml.data.dataset import DataError, Raw, Source
from mlml.data.pixels import pixels


class Omniglot(Source):
    """The background characters, and as test split the official one-shot runs, whose characters are others.

    A class is a character; in the test split it is one of a run, "run01/class01", and has two images: the shot, then
    the query. So the probe `fewshot` with `order: declared`, `num_ways: 20`, `num_shots: 1` and `num_queries: 1` is the
    official task. The ink is 255, the paper 0.
    """

    class Config(Declared):
        """The folder of the official zip files, which of them are the background set, and the side in pixels."""

        path: Annotated[str, Field(min_length=1)]
        background: Annotated[tuple[str, ...], Field(min_length=1)] = ("images_background.zip",)
        runs: str = "all_runs.zip"
        size: Annotated[int, Field(ge=8, le=105)] = 28

    channels = 1

    def read(self) -> Raw:
        config, root = self.config, Path(self.config.path)
        missing = [name for name in (*config.background, config.runs) if not (root / name).is_file()]
        if missing:
            raise DataError(
                f"{root}: lacks {', '.join(missing)}; put the files of github.com/brendenlake/omniglot there, or name "
                "others as 'background' and 'runs'"
            )
        drawn: list[tuple[str, NDArray[np.uint8]]] = []  # class and image
        for name in config.background:
            drawn += self._background(root / name)
        count = len(drawn)
        drawn += self._runs(root / config.runs)
        classes = tuple(dict.fromkeys(label for label, _ in drawn))
        place = {label: number for number, label in enumerate(classes)}
        labels = np.array([place[label] for label, _ in drawn], np.int64)
        return Raw(np.stack([image for _, image in drawn]), labels, classes, is_test=np.arange(len(drawn)) >= count)

    def _background(self, path: Path) -> list[tuple[str, NDArray[np.uint8]]]:
        """Every drawing of <set>/<alphabet>/<character>/<drawing>.png, in alphabetical order."""
        with _opened(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".png"))
            wrong = [name for name in names if len(PurePosixPath(name).parts) != 4]
            if wrong or not names:
                found = wrong[0] if wrong else "no picture"
                raise DataError(f"{path}: must hold SET/ALPHABET/CHARACTER/DRAWING.png; got {found}")
            return [("/".join(PurePosixPath(name).parts[1:3]), self._decode(archive, name, path)) for name in names]

    def _runs(self, path: Path) -> list[tuple[str, NDArray[np.uint8]]]:
        """Shot and query of every class of every run, as its class_labels.txt pairs them."""
        drawn = []
        with _opened(path) as archive:
            tables = sorted(name for name in archive.namelist() if name.endswith("/class_labels.txt"))
            if not tables:
                raise DataError(f"{path}: must hold run01/class_labels.txt and so on; got none")
            for table in tables:
                pairs = [line.split() for line in archive.read(table).decode().splitlines() if line.strip()]
                if any(len(pair) != 2 for pair in pairs) or len({shot for _, shot in pairs}) < len(pairs):
                    raise DataError(f"{path}: {table}: each line must pair one query with a class of its own")
                for query, shot in sorted(pairs, key=lambda pair: pair[1]):
                    label = f"{PurePosixPath(table).parent.name}/{PurePosixPath(shot).stem}"
                    drawn += [(label, self._decode(archive, name, path)) for name in (shot, query)]
        return drawn

    def _decode(self, archive: zipfile.ZipFile, name: str, path: Path) -> NDArray[np.uint8]:
        """Read one drawing, (1, size, size)."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(archive.read(name))) as picture:
                return 255 - pixels(picture, 1, (self.config.size, self.config.size))
        except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path}: {name} cannot be read ({' '.join(str(error).split())})") from None


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """An archive; what is broken in it, as after a download that was cut off, is told with its name."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, zipfile.BadZipFile, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())}); fetch it again") from None
