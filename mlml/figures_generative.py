"""Pictures of what a generative method has learnt: rows of classes, the latent space, and a walk along each dimension.

Notation: `mu` (n, d) are means of the posterior of n images, d latent dimensions; z are latent vectors.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from mlml import figures
from mlml.figures import LIGHT, style, write_png
from mlml.method import Infers, SamplesClasses
from mlml.prediction_figures import PALETTE, write_sheet
from mlml.seeds import generator

COLUMNS = 10
"""Pictures in a row."""

MAX_ROWS = 16
"""Classes, or latent dimensions, that get a row."""

MANIFOLD_SIDE = 15
"""Points along a side of the manifold of two latent dimensions."""

FAR = 3.0
"""How far a traversal goes from the prior's mean, in its deviations (Higgins et al. 2017, figure 1)."""


def write_classes(method: SamplesClasses, classes: Sequence[str], seed: int, device: torch.device, path: Path) -> None:
    """Write a PNG with a row of draws for each of the first classes.

    Each row begins with the generator in the same state: what a method draws beside the class, such as z, is the same
    along a column.
    """
    shown = classes[:MAX_ROWS]
    rows = {
        name: method.sample_classes(torch.full((COLUMNS,), label, device=device), generator(device, seed, "classes"))
        for label, name in enumerate(shown)
    }
    write_sheet({name: drawn.cpu().numpy() for name, drawn in rows.items()}, path)


def write_snapshots(
    steps: Sequence[int], images: UInt8[NDArray[np.uint8], "t n c h w"], folder: Path, prefix: str
) -> None:
    """Write `prefix`_over_training.png, a row of images for each of these steps, and a GIF of the same in motion."""
    drawn = images.astype(np.float32) / 255
    path = folder / f"{prefix}_over_training.png"
    write_sheet({f"step {step}": row for step, row in zip(steps, drawn, strict=True)}, path)
    figures.animation(drawn, COLUMNS, path.with_suffix(".gif"))


def write_latents(
    method: Infers,
    images: Float[Tensor, "n c h w"],
    classes: Sequence[str],
    folder: Path,
    prefix: str,
) -> None:
    """Write what images in [0, 1] and the prior look like in the latent space.

    `<prefix>_latents.png` is a map of the posterior means, `<prefix>_traversals.png` what each dimension does, and
    where there are two of them, `<prefix>_manifold.png` what is decoded from all over the prior.

    Args:
        method: in eval mode.
        images: to infer.
        classes: the name of each image's class, for the colours alone; none where there are no labels.
        folder: to write to.
        prefix: of the files' names.
    """
    mu, _ = method.infer(images)
    write_map(mu, classes, folder / f"{prefix}_latents.png")
    write_traversals(method, mu, folder / f"{prefix}_traversals.png")
    if mu.shape[1] == 2:
        grid = torch.unflatten(method.decode(manifold(MANIFOLD_SIDE).to(mu)), 0, (MANIFOLD_SIDE, MANIFOLD_SIDE))
        figures.rows_grid(grid.cpu().numpy(), folder / f"{prefix}_manifold.png")


def manifold(side: int) -> Float[Tensor, "p 2"]:
    """Points of two latent dimensions at equal steps of the prior's probability: Kingma & Welling 2014, figure 4.

    Row by row from the top: the first coordinate rises to the right, the second to the top. The quantiles are those of
    the middles of `side` parts.
    """
    quantiles = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side)
    second, first = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")
    return torch.stack([first.flatten(), second.flatten()], 1)


def write_traversals(method: Infers, mu: Float[Tensor, "n d"], path: Path) -> None:
    """Write a PNG with a row for each latent dimension: it goes from -3 to 3, the rest is as the first image has it.

    Dimensions that tell more of an image come first; beside each stands the variance of its mean over the images, near
    1 where it tells much and 0 where nothing (Burda et al. 2016, arXiv:1509.00519, section 5.2).
    """
    tells = mu.var(0, unbiased=False)  # (d,)
    rows = {}
    for dimension in tells.argsort(descending=True, stable=True)[:MAX_ROWS].tolist():
        z = mu[:1].repeat(COLUMNS, 1)
        z[:, dimension] = torch.linspace(-FAR, FAR, COLUMNS)
        rows[f"z{dimension}  {tells[dimension]:.2f}"] = method.decode(z).cpu().numpy()
    write_sheet(rows, path)


def write_map(mu: Float[Tensor, "n d"], classes: Sequence[str], path: Path) -> None:
    """Write a PNG of posterior means: up to two dimensions as they are, more by their principal components.

    A dot is an image, its colour the class.
    """
    flat = mu.shape[1] <= 2
    points = (F.pad(mu, (0, 2 - mu.shape[1])) if flat else principal_components(mu)).cpu().numpy()
    groups = sorted(set(classes)) if len(classes) else [""]
    with style(LIGHT):
        figure = Figure(figsize=(5.4, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for place, name in enumerate(groups):
            own = points[[each == name for each in classes]] if len(classes) else points
            axes.plot(own[:, 0], own[:, 1], ".", color=PALETTE[place % len(PALETTE)], markersize=4, label=name)
        axes.set_xlabel("z0" if flat else "first principal component of the posterior means")
        axes.set_ylabel("z1" if flat else "second")
        axes.set_aspect("equal", "datalim")
        if 1 < len(groups) <= 2 * len(PALETTE):
            figure.legend(loc="outside right center", markerscale=2, handletextpad=0.1)
        write_png(figure, path)


def principal_components(mu: Float[Tensor, "n d"]) -> Float[Tensor, "n 2"]:
    """Coordinates along the two directions in which the rows vary most, from their mean."""
    centred = mu.double() - mu.double().mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)  # (d, d), a column each, the greatest last
    coordinates: Tensor = centred @ directions[:, -2:].flip(1)
    return coordinates
