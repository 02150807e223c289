"""Loss landscape: the train loss on a line and on a plane through the final weights.

Li et al. 2018, "Visualizing the loss landscape of neural nets", arXiv:1712.09913, sections 3 and 4. Notation (theirs):
f(alpha) = L(theta + alpha delta) and f(alpha, beta) = L(theta + alpha delta + beta eta), where theta are the final
weights and delta, eta are random directions; `k` offsets alpha, and as many beta.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, field_validator
from torch import Tensor, nn

from mlml.config import StudyConfig
from mlml.figures import Theme, style
from mlml.findings import Findings
from mlml.seeds import generator
from mlml.studies._subject import Subject
from mlml.train import evaluate

ROUNDING = 1e-5
"""Of the largest loss on the line: a bend of less may be rounding in single precision."""


class LossLandscape:
    """The loss on the train split around the final weights, in eval mode: batch norm keeps its running statistics.

    Directions are drawn from the normal distribution and filter-normalised (section 4): each filter of a direction,
    that is the weights of one output unit, gets the norm of the network's own filter. So a distance of 1 replaces as
    much of a filter as there is of it, whatever the scale of the weights. Biases and the scales and shifts of norms are
    left where they are, as the authors' code has it. Moved are the weights that the method's last phase trains; the
    loss is that phase's.
    """

    class Config(StudyConfig):
        """Numbers of the study.

        Attributes:
            points: offsets from -extent to extent, an odd number, so that the final weights are among them.
            extent: the largest offset, in norms of the filters.
            plane: also look at a plane, of the first seed, at points x points places.
        """

        points: Annotated[int, Field(ge=3, le=201)] = 21
        extent: PositiveFloat = 1.0
        plane: bool = True

        @field_validator("points")
        @classmethod
        def _odd(cls, points: int) -> int:
            if points % 2 == 0:
                raise ValueError(f"must be odd, so that the final weights are one of them; got {points}")
            return points

    def __init__(self, config: Config) -> None:
        self.config = config

    def study(self, subject: Subject) -> Findings:
        """Measure the line of every seed, and the plane of the first."""
        offsets = np.linspace(-self.config.extent, self.config.extent, self.config.points)
        rows: list[dict[str, float]] = []
        lines: dict[int, Float[NDArray[np.floating], " k"]] = {}
        plane: Float[NDArray[np.floating], "k k"] | None = None
        for seed in subject.seeds:
            loss, weights, directions = self._around(subject, seed)
            lines[seed] = slices(loss, weights, directions[:1], offsets)
            rows += [
                {"seed": seed, "alpha": a, "beta": 0.0, "loss": v} for a, v in zip(offsets, lines[seed], strict=True)
            ]
            if self.config.plane and plane is None:
                plane = slices(loss, weights, directions, offsets)
                rows += [
                    {"seed": seed, "alpha": alpha, "beta": beta, "loss": plane[i, j]}
                    for i, alpha in enumerate(offsets)
                    for j, beta in enumerate(offsets)
                    if beta != 0
                ]
        pictures = {"loss on a line": partial(line_plot, offsets, lines)}
        if plane is not None:
            pictures["loss on a plane"] = partial(plane_plot, offsets, plane)
        metrics = {seed: shape(values) for seed, values in lines.items()}
        told = sentences(subject.name, self.config.extent, lines)
        return Findings(metrics, pd.DataFrame(rows), pictures, told)

    def _around(self, subject: Subject, seed: int) -> tuple[Callable[[], float], list[Tensor], list[list[Tensor]]]:
        """The loss as a function of the weights as they are, the weights, and two directions."""
        method = subject.load(seed)
        batches = subject.split("train", seed)
        parameters = list(method.phase_parameters(method.phases[-1]))
        weights = [parameter.detach() for parameter in parameters]
        transposed = {
            id(module.weight)
            for module in method.modules()
            if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d)
        }
        unit_dims = [int(id(parameter) in transposed) for parameter in parameters]
        draws = generator(torch.device("cpu"), seed, "landscape")
        directions = [filter_normalised(weights, unit_dims, draws) for _ in range(2)]
        return lambda: evaluate(method, batches, seed)["loss"], weights, directions


def filter_normalised(weights: Sequence[Tensor], unit_dims: Sequence[int], draws: torch.Generator) -> list[Tensor]:
    """Return a random direction whose filters have the norms of the weights' (section 4, d_ij <- d_ij / |d_ij| |w_ij|).

    A filter is what belongs to one output unit. Parameters of at most one dimension, biases and the numbers of norms,
    get the direction 0.

    Args:
        weights: parameters of any shapes.
        unit_dims: the dimension of each that counts output units: 1 of a transposed convolution, else 0.
        draws: on the processor, so that every device looks along the same directions.
    """
    direction = []
    for weight, units in zip(weights, unit_dims, strict=True):
        if weight.ndim <= 1:
            direction.append(torch.zeros_like(weight))
            continue
        drawn = torch.randn(weight.shape, generator=draws).to(weight)
        others = [dim for dim in range(weight.ndim) if dim != units]
        norms = [torch.linalg.vector_norm(tensor, dim=others, keepdim=True) for tensor in (weight, drawn)]
        direction.append(drawn * norms[0] / norms[1])
    return direction


@torch.no_grad()
def slices(
    loss: Callable[[], float],
    weights: Sequence[Tensor],
    directions: Sequence[Sequence[Tensor]],
    offsets: Float[NDArray[np.floating], " k"],
) -> Float[NDArray[np.floating], "..."]:
    """Return the loss at every combination of offsets along the directions; the weights are as before afterwards.

    Args:
        loss: of the weights as they are.
        weights: theta, changed in place meanwhile.
        directions: delta, eta, ...; each as the weights.
        offsets: alpha, and beta, ...

    Returns:
        (k,) for one direction, (k, k) for two; the first axis belongs to the first direction.
    """
    kept = [weight.clone() for weight in weights]
    found = np.empty((len(offsets),) * len(directions))
    for place in np.ndindex(found.shape):
        for number, weight in enumerate(weights):
            moved = kept[number].clone()
            for index, direction in zip(place, directions, strict=True):
                moved += float(offsets[index]) * direction[number]
            weight.copy_(moved)
        found[place] = loss()
    for weight, original in zip(weights, kept, strict=True):
        weight.copy_(original)
    return found


def shape(line: Float[NDArray[np.floating], " k"]) -> dict[str, float]:
    """Numbers of a line through the final weights.

    Returns:
        "landscape/centre/loss": f(0); "landscape/rise/half" and "landscape/rise/full": how much higher the mean of both
        sides is at half the extent and at the extent; "landscape/convex": the share of the inner points where the line
        does not bend down, f(a - h) + f(a + h) >= 2 f(a).
    """
    middle = len(line) // 2
    half = middle // 2
    bends = line[:-2] + line[2:] - 2 * line[1:-1]
    return {
        "landscape/centre/loss": float(line[middle]),
        "landscape/rise/half": float((line[middle - half] + line[middle + half]) / 2 - line[middle]),
        "landscape/rise/full": float((line[0] + line[-1]) / 2 - line[middle]),
        "landscape/convex": float((bends >= -ROUNDING * np.abs(line).max()).mean()),
    }


def sentences(name: str, extent: float, lines: dict[int, Float[NDArray[np.floating], " k"]]) -> tuple[str, ...]:
    """Tell how sharp the place is where training ended, and whether the line is convex."""
    shapes = [shape(line) for line in lines.values()]
    centre, half, full = (
        sum(found[f"landscape/{key}"] for found in shapes) / len(shapes)
        for key in ("centre/loss", "rise/half", "rise/full")
    )
    middle = len(next(iter(lines.values()))) // 2
    near = extent * (middle // 2) / middle
    over = "" if len(shapes) == 1 else f", means of {len(shapes)} seeds"
    convex = sum(found["landscape/convex"] == 1 for found in shapes)
    lowest = sum(int(line.argmin()) == middle for line in lines.values())
    return (
        f"{name}: the train loss is {centre:.3g} at the final weights, {centre + half:.3g} at a distance of {near:.2g} "
        f"of the filters' norm in a random direction, and {centre + full:.3g} at {extent:.2g}{over}.",
        f"Along the line the loss is convex for {convex} of {len(shapes)} seeds, and lowest at the final weights for "
        f"{lowest} of {len(shapes)}.",
    )


def line_plot(
    offsets: Float[NDArray[np.floating], " k"], lines: dict[int, Float[NDArray[np.floating], " k"]], theme: Theme
) -> Figure:
    """Plot the loss along the line, thin for each seed, thick for their mean."""
    with style(theme):
        figure = Figure(figsize=(5.6, 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for line in lines.values():
            axes.plot(offsets, line, color=theme.series[0], linewidth=0.9, alpha=0.5)
        label = "mean of seeds" if len(lines) > 1 else "loss"
        axes.plot(offsets, np.mean(list(lines.values()), axis=0), color=theme.series[0], linewidth=2.2, label=label)
        axes.axvline(0, color=theme.muted, linewidth=1, linestyle=(0, (2, 2)), label="final weights")
        axes.set_xlabel("offset along a filter-normalised direction")
        axes.set_ylabel("loss on train")
        axes.legend()
    return figure


def plane_plot(
    offsets: Float[NDArray[np.floating], " k"], plane: Float[NDArray[np.floating], "k k"], theme: Theme
) -> Figure:
    """Plot the loss on the plane as contours, evenly spaced on a log scale where the loss is positive."""
    positive, extent = bool(plane.min() > 0), float(offsets[-1])
    low, high = float(plane.min()), float(plane.max())
    levels = np.geomspace(low, high, 15) if positive and high > low else np.linspace(low, high + 1e-9, 15)
    with style(theme):
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        norm = LogNorm(low, high) if positive and high > low else None
        filled = axes.contourf(offsets, offsets, plane.T, levels=levels, cmap="viridis", norm=norm)
        axes.contour(offsets, offsets, plane.T, levels=levels, colors=theme.ink, linewidths=0.4, alpha=0.6)
        axes.plot(0, 0, "+", color="white", markersize=11, markeredgewidth=1.8)
        bar = figure.colorbar(filled, ax=axes, format="%.3g")
        bar.set_label("loss on train", color=theme.muted)
        bar.outline.set_visible(False)
        axes.set_aspect("equal")
        axes.set_xticks([-extent, -extent / 2, 0, extent / 2, extent])
        axes.set_yticks([-extent, -extent / 2, 0, extent / 2, extent])
        axes.grid(visible=False)
        axes.set_xlabel("first direction")
        axes.set_ylabel("second direction")
    return figure
