"""Patches of the two photographs that come with scikit-learn: natural colour images, unlabelled, no network needed."""

from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from mlml.config import Declared
from mlml.data.dataset import Raw, Source
from mlml.data.draws import Draws

_STRIP = 5
"""One part in five of each photograph's width, its right end, belongs to the test split; of the patches as many."""


class Photos(Source):
    """Square RGB patches at random places of a Chinese temple and a flower, 427x640 pixels each.

    Patch i is a function of (seed, i), so a larger count extends a smaller one. Patches overlap, therefore the test
    split is the source's own: its patches lie in the right fifth of a photograph and no other patch reaches into it.
    """

    labelled = False

    class Config(Declared):
        """Number of patches, their height and width in pixels (a test patch fits into 128), and the seed."""

        patch_size: Annotated[int, Field(ge=8, le=128)] = 32
        count: PositiveInt = 4000
        seed: NonNegativeInt = 0

    def read(self) -> Raw:
        from sklearn.datasets import load_sample_images

        photographs = load_sample_images().images  # two of (427, 640, 3) uint8
        places = [self._place(index, photographs[0].shape) for index in range(self.config.count)]
        size = self.config.patch_size
        images = np.stack(
            [photographs[number][top : top + size, left : left + size] for _, number, top, left in places]
        )  # (n, h, w, 3)
        is_test = np.array([place[0] for place in places])
        return Raw(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), is_test=is_test)

    def _place(self, index: int, shape: tuple[int, int, int]) -> tuple[bool, int, int, int]:
        """Whether patch `index` is a test patch, the number of its photograph, its top and its left."""
        draws = Draws("photos", self.config.seed, index)
        height, width, size = shape[0], shape[1], self.config.patch_size
        border = width - width // _STRIP
        is_test, number, top = draws.below(_STRIP) == 0, draws.below(2), draws.between(0, height - size)
        left = draws.between(border, width - size) if is_test else draws.between(0, border - size)
        return is_test, number, top, left
