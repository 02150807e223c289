"""Pictures of an evaluation."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from mlml.figures import LIGHT, style, write_png

MAX_NAMED = 30
"""Classes up to which each bar has its name below it."""

MAX_WORDS = 48
"""Words whose recall is drawn."""

LINE_LENGTH = 26
"""Characters of a line of a caption, for each image beside each other."""


def write_class_histogram(
    real: Int[NDArray[np.int64], " n"],
    generated: Int[NDArray[np.int64], " n"],
    classes: Sequence[str],
    split: str,
    path: Path,
) -> None:
    """Write a PNG of how often each class is seen in real images of a split and in generated ones, in percent."""
    places = np.arange(len(classes))
    with style(LIGHT):
        figure = Figure(figsize=(min(2.2 + 0.4 * len(classes), 11.0), 2.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for number, (seen, label) in enumerate(((real, f"real, {split}"), (generated, "generated"))):
            shares = 100 * np.bincount(seen, minlength=len(classes)) / len(seen)
            axes.bar(places + 0.4 * (number - 0.5), shares, 0.4, color=LIGHT.series[number], label=label)
        if len(classes) <= MAX_NAMED:
            axes.set_xticks(places, classes)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("class, as the extractor sees it")
        axes.set_ylabel("images, %")
        figure.legend(loc="outside upper left", ncols=2)
        write_png(figure, path)


def write_captioned(
    strips: Float[NDArray[np.floating], "n s c h w"],
    captions: Sequence[str],
    right: Sequence[bool],
    columns: int,
    path: Path,
) -> None:
    """Write a PNG of images with the caption that they are to show above, crossed out by a mark where they do not.

    Args:
        strips: s images beside each other for each caption, in [0, 1].
        captions: of each strip.
        right: whether its last image shows what the caption says.
        columns: strips to a row.
        path: of the PNG.
    """
    count, side_by_side = strips.shape[:2]
    pixels = np.concatenate(list(strips.transpose(1, 0, 3, 4, 2)), axis=2)  # (n, h, s w, c)
    rows = -(-count // columns)
    with style(LIGHT):
        figure = Figure(figsize=(columns * (0.6 + 1.0 * side_by_side), 1.6 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        for axes in figure.subplots(rows, columns, squeeze=False).flat:
            axes.set_axis_off()
        for axes, picture, caption, is_right in zip(figure.axes, pixels, captions, right, strict=False):
            shown = np.broadcast_to(picture, (*picture.shape[:2], 3)).clip(0, 1)
            axes.imshow(shown, interpolation="nearest")
            told = textwrap.fill(caption, LINE_LENGTH * max(1, side_by_side - 1))
            colour = LIGHT.ink if is_right else LIGHT.series[1]
            axes.set_title(told if is_right else f"✗ {told}", fontsize=6.5, fontweight="normal", color=colour)
        write_png(figure, path)


def write_scales(scales: Sequence[float], agreements: Sequence[float], real: float, path: Path) -> None:
    """Write a PNG of the agreement with captions of validation over the guidance scale, and that of real images."""
    with style(LIGHT):
        figure = Figure(figsize=(4.6, 2.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(scales, [100 * share for share in agreements], "o-", color=LIGHT.series[0], label="samples")
        axes.axhline(100 * real, color=LIGHT.series[1], linestyle="--", linewidth=1.2, label="real images")
        axes.set_xlabel("guidance scale")
        axes.set_ylabel("agreement, validation, %")
        figure.legend(loc="outside upper left", ncols=2)
        write_png(figure, path)


def write_word_recall(
    asked: Bool[Tensor, "n v"], found: Mapping[str, Bool[Tensor, "n v"]], vocabulary: Sequence[str], path: Path
) -> None:
    """Write a PNG of the share of captions with a word in whose images it is found, in percent.

    Of the words that are asked for, those that are found the most seldom in the last kind of images come first, up to
    MAX_WORDS.

    Args:
        asked: words of the captions.
        found: words in their images, by the kind of image.
        vocabulary: all words.
        path: of the PNG.
    """
    times = asked.sum(0).cpu().numpy()
    recalls = {kind: (asked & words).sum(0).cpu().numpy() / times.clip(min=1) for kind, words in found.items()}
    order = np.lexsort((np.arange(len(times)), list(recalls.values())[-1]))
    order = order[times[order] > 0][:MAX_WORDS]
    places, width = np.arange(len(order)), 0.8 / len(recalls)
    with style(LIGHT):
        figure = Figure(figsize=(4.6, 0.8 + 0.2 * len(order)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for number, (kind, recall) in enumerate(recalls.items()):
            offset = (number - (len(recalls) - 1) / 2) * width
            axes.barh(places + offset, 100 * recall[order], width, color=LIGHT.series[number], label=kind)
        axes.set_yticks(places, [vocabulary[place] for place in order])
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("recall of the word, %")
        figure.legend(loc="outside upper left", ncols=len(recalls))
        write_png(figure, path)
