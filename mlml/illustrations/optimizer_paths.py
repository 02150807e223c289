"""Paths of optimizers on a surface of two numbers."""

import math
from functools import partial
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import nn

from mlml import optimizers
from mlml.config import Declared, OptimizerConfig
from mlml.figures import Theme, line_look, style
from mlml.findings import Findings
from mlml.illustrations._surfaces import SURFACES, Surface


class OptimizerPaths:
    """Every optimizer from the same start, with exact gradients; its rate stays constant."""

    class Config(Declared):
        """Numbers of the picture.

        Attributes:
            start: x and y.
            optimizers: by a name for the legend, the optimizer and its numbers.
        """

        surface: Literal["saddle", "plateau", "ravine", "rosenbrock", "beale"]
        start: tuple[float, float]
        steps: PositiveInt = 100
        optimizers: Annotated[dict[str, OptimizerConfig], Field(min_length=1)]

    def __init__(self, config: Config) -> None:
        self.config = config

    def illustrate(self) -> Findings:
        """Run every optimizer, and draw where it went."""
        config, surface = self.config, SURFACES[self.config.surface]
        paths = {name: path(surface, config.start, config.steps, each) for name, each in config.optimizers.items()}
        rows = [
            {"optimizer": name, "step": step, "x": x, "y": y, "loss": loss}
            for name, points in paths.items()
            for step, (x, y, loss) in enumerate(points)
        ]
        metrics = {
            f"{name}/{key}": value
            for name, points in paths.items()
            for key, value in (("final/loss", float(points[-1, 2])), ("steps_to_solved", solved_after(points, surface)))
            if value is not None
        }
        told = sentences(config.surface, surface, paths, config.steps)
        return Findings({0: metrics}, pd.DataFrame(rows), {"paths": partial(plot, surface, paths)}, told)


def path(
    surface: Surface, start: tuple[float, float], steps: int, config: OptimizerConfig
) -> Float[NDArray[np.floating], "k 3"]:
    """Return x, y and the loss at the start and after each step, in double precision.

    The two numbers are one weight, a row of two, so that LARS scales it as it would a layer. A path whose loss stops
    being finite ends before that step.

    Returns:
        (steps + 1, 3), fewer rows for a path that left the numbers.
    """
    weight = nn.Parameter(torch.tensor([start], dtype=torch.float64))  # (1, 2)
    optimizer = optimizers.build(config, [weight], False)
    points = []
    for _ in range(steps + 1):
        loss = surface.loss(weight[:, 0], weight[:, 1]).sum()
        if not bool(loss.isfinite()):
            break
        points.append([*weight[0].tolist(), float(loss.detach())])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return np.array(points)


def solved_after(points: Float[NDArray[np.floating], "k 3"], surface: Surface) -> int | None:
    """Return the first step whose loss is below the surface's hurdle; None where none is."""
    below = np.flatnonzero(points[:, 2] < surface.solved)
    return int(below[0]) if len(below) else None


def sentences(
    name: str, surface: Surface, paths: dict[str, Float[NDArray[np.floating], "k 3"]], steps: int
) -> tuple[str, ...]:
    """Tell who passed the hurdle when, who did not, and who ended lowest."""
    solved = {optimizer: solved_after(points, surface) for optimizer, points in paths.items()}
    came = sorted((after, optimizer) for optimizer, after in solved.items() if after is not None)
    told = []
    if came:
        listed = ", ".join(f"{optimizer} after {after}" for after, optimizer in came)
        told.append(f"Steps until each {surface.hurdle} (loss below {surface.solved:g}): {listed}.")
    never = [optimizer for optimizer, after in solved.items() if after is None]
    if never:
        ends = ", ".join(f"{optimizer} (loss {paths[optimizer][-1, 2]:.3g})" for optimizer in never)
        told.append(f"Not within {steps} steps: {ends}.")
    lost = [optimizer for optimizer, points in paths.items() if len(points) <= steps]
    if lost:
        told.append(f"Left the finite numbers: {', '.join(lost)}.")
    lowest = min(paths, key=lambda optimizer: paths[optimizer][-1, 2] if optimizer not in lost else math.inf)
    end = paths[lowest][-1, 2]
    told.append(
        f"Lowest at the end was {lowest}, {max(0.0, end - surface.minimum):.2g} above the minimum of the {name}."
    )
    return tuple(told)


def plot(surface: Surface, paths: dict[str, Float[NDArray[np.floating], "k 3"]], theme: Theme) -> Figure:
    """Draw contours and paths, a dot at each end, and beside them how far each loss is above the minimum."""
    with style(theme):
        figure = Figure(figsize=(10.4, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        view, course = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _contours(view, surface, theme)
        for place, (name, points) in enumerate(paths.items()):
            look = dict(zip(("color", "linestyle"), line_look(theme, place), strict=True))
            view.plot(points[:, 0], points[:, 1], linewidth=1.7, label=name, **look)
            view.plot(*points[-1, :2], "o", color=look["color"], markersize=6, zorder=4)
            course.plot(np.maximum(points[:, 2] - surface.minimum, 1e-12), linewidth=1.7, **look)
        start = next(iter(paths.values()))[0]
        view.plot(start[0], start[1], "s", color=theme.ink, markersize=6, zorder=5)
        view.annotate("start", start[:2], xytext=(7, 6), textcoords="offset points", color=theme.ink)
        course.axhline(surface.solved - surface.minimum, color=theme.muted, linewidth=1, linestyle=(0, (2, 2)))
        course.set_yscale("log")
        course.set_ylim(bottom=1e-7)  # below, only rounding differs
        course.set_title("loss above the minimum", loc="left")
        course.set_xlabel("step")
        figure.legend(*view.get_legend_handles_labels(), loc="outside upper left", ncols=min(len(paths), 8))
    return figure


def _contours(axes: Axes, surface: Surface, theme: Theme) -> None:
    """Draw the surface as lines of equal loss, closer where the loss is near its minimum."""
    left, right, bottom, top = surface.view
    x, y = torch.meshgrid(torch.linspace(left, right, 201), torch.linspace(bottom, top, 201), indexing="xy")
    heights = (surface.loss(x.double(), y.double()) - surface.minimum).numpy()  # (201, 201)
    levels = np.linspace(heights.min() ** 0.5, heights.max() ** 0.5, 22)[1:] ** 2
    axes.contour(x.numpy(), y.numpy(), heights, levels=levels, colors=theme.muted, linewidths=0.6, alpha=0.75)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.grid(visible=False)
    axes.set_title("paths, each from the start to its dot", loc="left")
    axes.set_xlabel("x")
    axes.set_ylabel("y")
