"""Pictures of diffusion: films of noising and denoising, rows of guidance, edits, and what samples are nearest to.

Each writes PNGs by `mlml.figures`; the same method, seed and data give the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from mlml import figures
from mlml.data.batches import Batches, as_float
from mlml.method import Diffuses, Edits, Guides, SamplesTexts
from mlml.seeds import generator

SCALES = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Guidance scales that stand below each other: without the condition, by it alone, and beyond."""

NUM_IMAGES, COLUMNS = 8, 8
NUM_FRAMES = 10

CHUNK = 4096
"""Train images that are compared at once."""


def nearest(
    samples: Float[Tensor, "n c h w"], train: UInt8[NDArray[np.uint8], "m c h w"]
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Which train image each sample is nearest to, and its distance: the root of the mean squared error of the pixels.

    The first of several that are equally near. A memorised image has a neighbour that it is a copy of (Carlini et al.
    2023, arXiv:2301.13188, section 4.2, by the same distance).
    """
    found = torch.zeros(len(samples), dtype=torch.long, device=samples.device)
    least = torch.full((len(samples),), torch.inf, device=samples.device)
    flat = samples.flatten(1)
    for start in range(0, len(train), CHUNK):
        images = as_float(torch.from_numpy(np.array(train[start : start + CHUNK])).to(samples.device)).flatten(1)
        distances = torch.cdist(flat, images, compute_mode="donot_use_mm_for_euclid_dist") / flat.shape[1] ** 0.5
        nearer, places = distances.min(1)  # (n,)
        better = nearer < least
        found, least = torch.where(better, places + start, found), torch.where(better, nearer, least)
    return found, least


def write_nearest(samples: Float[Tensor, "n c h w"], train: UInt8[NDArray[np.uint8], "m c h w"], path: Path) -> None:
    """Write samples, each above the train image that it is nearest to."""
    places = nearest(samples, train)[0].cpu().numpy()
    originals = train[places].astype(np.float32) / 255
    figures.pairs_grid(samples.cpu().numpy(), originals, COLUMNS, path)


def write_film(method: Diffuses, batches: Batches, seed: int, path: Path) -> None:
    """Write `path`_forward.png, images that become noise, and `path`_reverse.png, noise that becomes images.

    `path`_reverse.gif has the second in motion.
    """
    images = batches.at(batches.sample(NUM_IMAGES)).images
    forward, reverse = method.film(images, NUM_FRAMES, generator(batches.device, seed, "film"))
    for name, frames in (("forward", forward), ("reverse", reverse)):
        figures.rows_grid(frames.cpu().numpy(), path.with_name(f"{path.name}_{name}.png"))
    moving = reverse.transpose(0, 1).cpu().numpy()  # (s, b, c, h, w)
    figures.animation(moving, COLUMNS, path.with_name(f"{path.name}_reverse.gif"))


def write_guidance(method: Guides, num_conditions: int, seed: int, device: torch.device, path: Path) -> None:
    """Write a row for each guidance scale of SCALES, a column for each of the first conditions, from the same noise."""
    count = min(num_conditions, NUM_IMAGES)
    rows = [method.sample_guided(count, scale, generator(device, seed, "guidance")) for scale in SCALES]
    figures.rows_grid(torch.stack(rows).cpu().numpy(), path)


def write_texts(
    method: SamplesTexts, captions: Sequence[str], seed: int, device: torch.device, folder: Path, prefix: str
) -> None:
    """Write `prefix`_texts.png, a row for each guidance scale, and `prefix`_texts.txt, the caption of each column."""
    texts = _spread(captions)
    rows = [method.sample_texts(texts, generator(device, seed, "texts"), scale) for scale in SCALES]
    figures.rows_grid(torch.stack(rows).cpu().numpy(), folder / f"{prefix}_texts.png")
    (folder / f"{prefix}_texts.txt").write_text("".join(f"{text}\n" for text in texts))


def write_edits(method: Edits, batches: Batches, captions: Sequence[str], seed: int, path: Path) -> None:
    """Write images, the same with the erased middle in grey, and their edits by other images' captions, in three rows.

    The captions are those of the next image in the picture, written beside it.
    """
    places = batches.sample(NUM_IMAGES).tolist()
    texts = [captions[place] for place in places[1:] + places[:1]]
    images = batches.at(torch.tensor(places)).images
    masks = middle(images)
    edited = method.edit(images, masks, texts, generator(batches.device, seed, "edits"))
    hidden = torch.where(masks[:, None], 0.5, images)
    figures.rows_grid(torch.stack([images, hidden, edited]).cpu().numpy(), path)
    path.with_suffix(".txt").write_text("".join(f"{text}\n" for text in texts))


def middle(images: Float[Tensor, "n c h w"]) -> Tensor:
    """A mask (n, h, w) of all but a border of an eighth of each side."""
    _, _, height, width = images.shape
    masks = torch.zeros(len(images), height, width, dtype=torch.bool, device=images.device)
    masks[:, height // 8 : height - height // 8, width // 8 : width - width // 8] = True
    return masks


def _spread(captions: Sequence[str]) -> list[str]:
    """A few captions, at equal distances."""
    count = min(len(captions), NUM_IMAGES)
    return [captions[place * len(captions) // count] for place in range(count)]
