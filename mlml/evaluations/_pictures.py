"""Pictures of an evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mlml.figures import LIGHT, style, write_png

MAX_NAMED = 30
"""Classes up to which each bar has its name below it."""


def write_class_histogram(
    real: Int[NDArray[np.int64], " n"], generated: Int[NDArray[np.int64], " n"], classes: Sequence[str], path: Path
) -> None:
    """Write a PNG of how often each class is seen in real and in generated images, in percent."""
    places = np.arange(len(classes))
    with style(LIGHT):
        figure = Figure(figsize=(min(2.2 + 0.4 * len(classes), 11.0), 2.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for number, (seen, label) in enumerate(((real, "real, test"), (generated, "generated"))):
            shares = 100 * np.bincount(seen, minlength=len(classes)) / len(seen)
            axes.bar(places + 0.4 * (number - 0.5), shares, 0.4, color=LIGHT.series[number], label=label)
        if len(classes) <= MAX_NAMED:
            axes.set_xticks(places, classes)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("class, as the extractor sees it")
        axes.set_ylabel("images, %")
        figure.legend(loc="outside upper left", ncols=2)
        write_png(figure, path)
