"""Parts of a train split: of each class the same share, and what a smaller part holds a larger one holds too."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlml.data.dataset import PreparedData, Split
from mlml.seeds import derive

OF_IMAGES = ("images", "labels", "captions", "masks")
"""Parts of a split that hold one entry for each image."""


class Reduced(PreparedData):
    """Prepared data of which only some train images are used; the spec, and so mean and std, stay those of the whole.

    Args:
        data: the whole.
        chosen: (k,) positions in the train split.
    """

    def __init__(self, data: PreparedData, chosen: NDArray[np.int64]) -> None:
        self.folder, self.spec, self.chosen = data.folder, data.spec, chosen

    def split(self, name: str) -> Split:
        """Open a split; of train, what was chosen."""
        whole = super().split(name)
        return whole if name != "train" else picked(whole, self.chosen)


def picked(split: Split, places: NDArray[np.int64]) -> Split:
    """Return the examples at some places of a split, with all that it holds of them.

    Args:
        split: is not changed.
        places: (k,) positions in the split.
    """

    def pick(part: Any) -> Any:
        return [part[place] for place in places] if isinstance(part, list) else part[places]

    return split._replace(
        **{key: pick(part) for key, part in split._asdict().items() if key in OF_IMAGES and part is not None}
    )


def nested(data: PreparedData, fraction: float, seed: int) -> NDArray[np.int64]:
    """Return the positions of a part of the train split, ascending: of each class the same share, at least one image.

    For one seed, the positions of a smaller fraction are among those of a larger one.

    Returns:
        (k,) positions; all for the fraction 1.
    """
    split = data.split("train")
    labels = split.labels if split.labels is not None and split.labels.ndim == 1 else np.zeros(len(split.images), int)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.random.default_rng(derive(seed, "learning_curve", int(label))).permutation(len(members))
        chosen.append(members[order[: max(1, round(fraction * len(members)))]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
