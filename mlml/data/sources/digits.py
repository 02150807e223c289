"""Scikit-learn's bundled handwritten digits: 1,797 grey images of 8x8, ten classes, no network needed."""

from typing import Annotated

import numpy as np
from pydantic import Field

from mlml.config import Declared
from mlml.data.dataset import Raw, Source
from mlml.data.pixels import pixels


class Digits(Source):
    """The test part of "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998, UCI repository).

    Its values 0 .. 16 become round(value * 255 / 16).
    """

    channels = 1

    class Config(Declared):
        """Height and width in pixels; other than 8 is resampled bilinearly from it."""

        size: Annotated[int, Field(ge=4, le=256)] = 8

    def read(self) -> Raw:
        from PIL import Image
        from sklearn.datasets import load_digits

        bunch = load_digits()
        grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # (n, 8, 8)
        size = (self.config.size, self.config.size)
        images = np.stack([pixels(Image.fromarray(image), 1, size) for image in grey])
        return Raw(images, bunch.target.astype(np.int64), tuple("0123456789"))
