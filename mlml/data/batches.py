"""Batches as a function of their index: batch n of a run is the same whatever ran before it.

Notation: `n` counts batches from the start of the run, over all epochs; `b` is the batch size.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from mlml.data.dataset import PreparedData
from mlml.seeds import derive

RESIDENT_BYTES = 4 * 2**30
"""Data up to this size lies on the device whole; larger data is read from the memory map, batch by batch."""


_READER = ThreadPoolExecutor(1, "read-ahead")
"""Begins its thread at its first work, which only data that does not fit on the device gives it."""


class Batch(NamedTuple):
    """Images in [0, 1] (or features), and labels; labels are empty when the data has none.

    For a method whose targets are masks, the labels are those of the pixels, (b, h, w); for one whose targets are
    captions, they are the tokens of their words, (b, l).
    """

    images: Float[Tensor, "b c h w"]
    labels: Int[Tensor, " b"] | Int[Tensor, "b h w"] | Int[Tensor, "b l"]


class Batches:
    """The shuffled batches of a split; `batches(n)` is batch n.

    Each epoch is a permutation drawn from (seed, epoch). The last, smaller batch of an epoch is left out, unless the
    split is smaller than one batch. With several ranks each takes its part of the same global batch.

    Args:
        images: (n, c, h, w) uint8, or (n, d) float features.
        labels: (n,), or (n, h, w) of pixels, or (n, l) tokens, or None.
        batch_size: size of the global batch; "full" for the whole split.
        seed: of the run.
        device: where batches go; small data lies there whole.
        rank, world_size: the part of each batch that this process takes.

    Raises:
        ValueError: an empty split, or a global batch that the ranks cannot share evenly.
    """

    def __init__(
        self,
        images: NDArray[np.generic],
        labels: NDArray[np.integer] | None,
        batch_size: int | Literal["full"],
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(images) == 0:
            raise ValueError("the split holds no images; give it a larger fraction or more data")
        self.batch_size = len(images) if batch_size == "full" else min(batch_size, len(images))
        if self.batch_size % world_size:
            raise ValueError(
                f"train.batch_size: must be a multiple of the number of processes, {world_size}; got {self.batch_size}"
                + (f", all images of the split ({batch_size} was declared)" if batch_size != self.batch_size else "")
                + f"; take {self.batch_size - self.batch_size % world_size}, or other processes"
            )
        self.size, self.seed, self.device = len(images), seed, device
        self.rank, self.world_size = rank, world_size
        self.num_batches = self.size // self.batch_size
        self._images = _resident(images, device)
        self._labels = torch.empty(self.size, 0, device=device) if labels is None else _resident(labels, device)
        self._epoch: tuple[int, Tensor] = (-1, torch.empty(0))
        self._ahead: tuple[int, Future[tuple[Tensor, Tensor]]] | None = (
            None  # the batch after the last one, read by a thread
        )

    def __call__(self, n: int) -> Batch:
        """Return this rank's part of batch n, on the device."""
        index = self._index(n)
        if isinstance(self._images, Tensor) and isinstance(self._labels, Tensor):
            return self.at(index)
        if self._ahead is None or self._ahead[0] != n:
            self._ahead = (n, _READER.submit(self._read, index))
        rows = self._ahead[1].result()
        self._ahead = (n + 1, _READER.submit(self._read, self._index(n + 1)))
        return self._on_device(*rows)

    def _index(self, n: int) -> Int[Tensor, " b"]:
        """Where in the split the images of this rank's part of batch n lie."""
        epoch, position = divmod(n, self.num_batches)
        if self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(derive(self.seed, "epoch", epoch))
            self._epoch = (epoch, torch.randperm(self.size, generator=generator))
        share = self.batch_size // self.world_size
        start = position * self.batch_size + self.rank * share
        return self._epoch[1][start : start + share]

    def at(self, index: Int[Tensor, " b"]) -> Batch:
        """Return the examples at `index` of the split, on the device."""
        return self._on_device(*self._read(index))

    def _read(self, index: Int[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """Images and labels, on the device or, from a memory map, in memory that a GPU can copy from by itself."""
        return self._rows(self._images, index), self._rows(self._labels, index)

    def _rows(self, array: Tensor | NDArray[np.generic], index: Int[Tensor, " b"]) -> Tensor:
        if isinstance(array, Tensor):
            return array[index.to(self.device)]
        rows = torch.from_numpy(array[index.numpy()])
        return rows.pin_memory() if self.device.type == "cuda" else rows

    def _on_device(self, images: Tensor, labels: Tensor) -> Batch:
        images, labels = (rows.to(self.device, non_blocking=True) for rows in (images, labels))
        return Batch(as_float(images), labels.long() if labels.dtype == torch.uint8 else labels)

    def in_order(self) -> list[Tensor]:
        """Indices of the split in order, cut into batches of nearly equal size: for what is put together again."""
        return list(torch.arange(self.size).tensor_split(-(-self.size // self.batch_size)))

    def spread(self) -> list[Tensor]:
        """Indices of the split in batches of nearly equal size, every k-th in one: for losses over the batch.

        Sources often lie sorted by class; neighbours would make batches of a single one.
        """
        count = -(-self.size // self.batch_size)
        return [torch.arange(first, self.size, count) for first in range(count)]

    def sample(self, count: int) -> Tensor:
        """Indices of so many examples, or of all where there are fewer, at equal distances over the split."""
        count = min(count, self.size)
        return torch.arange(count) * self.size // count


def _resident(array: NDArray[np.generic], device: torch.device) -> Tensor | NDArray[np.generic]:
    """The array on the device whole if it is small, else as it is."""
    return torch.from_numpy(np.array(array)).to(device) if array.nbytes <= RESIDENT_BYTES else array


def as_float(images: Tensor) -> Tensor:
    """Scale uint8 images to floats in [0, 1]; floats pass."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def split_batches(
    data: PreparedData,
    name: str,
    batch_size: int | Literal["full"],
    seed: int,
    device: torch.device,
    targets: str = "labels",
    rank: int = 0,
    world_size: int = 1,
) -> Batches:
    """Batches of one split of prepared data, with what a method's `targets` names: labels, masks or captions."""
    split = data.split(name)
    return Batches(split.images, split.targets(targets), batch_size, seed, device, rank, world_size)
