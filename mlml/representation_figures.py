"""Pictures of a representation: maps in two dimensions, nearest neighbours, density and outliers.

Notation: n images with features of width d; `classes` are the names of their classes, for the colours alone.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mlml.figures import LIGHT, style, write_png
from mlml.prediction_figures import PALETTE, write_sheet

TITLES = {"pca": "principal components", "tsne": "t-SNE", "umap": "UMAP"}
NUM_EXTREMES = 12
"""Images that `write_outliers` shows of either end."""


def mapped(features: Float[NDArray[np.floating], "n d"], kind: str, seed: int) -> Float[NDArray[np.floating], "n 2"]:
    """Features in two dimensions.

    Args:
        features: of images.
        kind: "pca", "tsne" or "umap".
        seed: of what is drawn at random.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    state = seed % 2**32
    if kind == "pca":
        found = PCA(2, svd_solver="full").fit_transform(features)
    elif kind == "tsne":
        perplexity = min(30.0, (len(features) - 1) / 3)
        found = TSNE(2, perplexity=perplexity, init="pca", random_state=state).fit_transform(features)
    else:
        from umap import UMAP  # seconds to import, which only who asks for it waits for

        neighbours = min(15, len(features) - 1)  # its default, where there are so many
        # one thread, which it takes for a seed anyway, and says so where it is not asked for
        found = UMAP(n_neighbors=neighbours, random_state=state, n_jobs=1).fit_transform(features)
    return np.asarray(found, np.float64)


def write_maps(
    features: Float[NDArray[np.floating], "n d"], classes: Sequence[str], kinds: Sequence[str], seed: int, path: Path
) -> None:
    """Write a PNG with a map of each kind; a dot is an image, its colour the class."""
    names = sorted(set(classes))
    colours = {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}
    with style(LIGHT):
        figure = Figure(figsize=(4.4 * len(kinds), 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
            points = mapped(features, kind, seed)
            for name in names:
                own = points[[each == name for each in classes]]
                axes.plot(own[:, 0], own[:, 1], ".", color=colours[name], markersize=4, label=name)
            axes.set_title(TITLES[kind], loc="left")
            axes.set_xticks([])
            axes.set_yticks([])
        handles, labels = axes.get_legend_handles_labels()
        if len(names) <= 2 * len(PALETTE):
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 10), markerscale=2)
        write_png(figure, path)


def write_neighbours(
    images: Float[NDArray[np.floating], "n c h w"],
    classes: Sequence[str],
    queries: Int[NDArray[np.int64], " q"],
    places: Int[NDArray[np.int64], "n k"],
    path: Path,
) -> None:
    """Write a PNG with a row for each query: the image first, then its nearest others, nearest first.

    Args:
        images: in [0, 1].
        classes: of each.
        queries: which images are asked for.
        places: of the neighbours of every image.
        path: of the PNG.
    """
    rows = {f"{number}: {classes[q]}": images[[q, *places[q]]] for number, q in enumerate(queries.tolist(), 1)}
    write_sheet(rows, path)


def write_density(scores: Float[NDArray[np.floating], " n"], k: int, path: Path) -> None:
    """Write a PNG of how many images are how far from their k-th neighbour; the outliers of `write_outliers` marked."""
    with style(LIGHT):
        figure = Figure(figsize=(6.0, 2.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.hist(scores, bins=min(40, max(5, len(scores) // 10)), color=LIGHT.series[0], alpha=0.8)
        outer = np.sort(scores)[::-1][:NUM_EXTREMES]
        axes.plot(outer, np.zeros_like(outer), "|", color=LIGHT.series[1], markersize=14, label="outliers")
        axes.set_xlabel(f"distance of unit features to the {k}-th nearest other")
        axes.set_ylabel("images")
        axes.legend(frameon=False)
        write_png(figure, path)


def write_outliers(
    images: Float[NDArray[np.floating], "n c h w"], scores: Float[NDArray[np.floating], " n"], path: Path
) -> None:
    """Write a PNG of the images that are farthest from their neighbours, and of those that are nearest."""
    order = np.argsort(-scores, kind="stable")
    count = min(NUM_EXTREMES, len(order) // 2)
    write_sheet({"outliers": images[order[:count]], "typical": images[order[::-1][:count]]}, path)
