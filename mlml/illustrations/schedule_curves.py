"""Curves of learning-rate schedules."""

from functools import partial
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator

from mlml import schedules
from mlml.config import Declared, PlateauSchedule, ScheduleConfig
from mlml.figures import Theme, style
from mlml.findings import Findings

COLUMNS = 3


class ScheduleCurves:
    """What each schedule multiplies the learning rate by, step by step, as the training loop has it."""

    class Config(Declared):
        """Numbers of the picture.

        Attributes:
            schedules: by a name for the picture, the schedule and its numbers.
            validation_losses: what "plateau" listens to, as if measured at even distances over the run, the last at its
                end; only and always to be given with such a schedule.
        """

        steps: PositiveInt = 200
        schedules: Annotated[dict[str, ScheduleConfig], Field(min_length=1)]
        validation_losses: tuple[float, ...] = ()

        @model_validator(mode="after")
        def _fits(self) -> "ScheduleCurves.Config":
            listens = any(isinstance(schedule, PlateauSchedule) for schedule in self.schedules.values())
            if listens != bool(self.validation_losses):
                raise ValueError("give 'validation_losses' if a schedule is 'plateau', and only then")
            if len(self.validation_losses) > self.steps:
                raise ValueError(f"validation_losses must be at most {self.steps}, the steps; got more")
            for name, schedule in self.schedules.items():
                if schedule.warmup_steps >= self.steps:
                    raise ValueError(f"schedules.{name}.warmup_steps must be less than {self.steps}, the steps")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config

    def illustrate(self) -> Findings:
        """Compute every curve, and draw them."""
        config = self.config
        curves = {
            name: factors(schedule, config.steps, config.validation_losses)
            for name, schedule in config.schedules.items()
        }
        table = pd.DataFrame({"step": range(config.steps), **curves})
        metrics = {
            f"{name}/{key}": value
            for name, curve in curves.items()
            for key, value in (("mean_factor", float(curve.mean())), ("last_factor", float(curve[-1])))
        }
        pictures = {"factor of the learning rate": partial(plot, curves)}
        return Findings({0: metrics}, table, pictures, sentences(curves))


def factors(config: ScheduleConfig, steps: int, losses: tuple[float, ...]) -> Float[NDArray[np.floating], " k"]:
    """Return what the learning rate of each step is multiplied by.

    Loss number j of n, from 1, is heard after step round(j steps / n), as an evaluation in the training loop is.

    Returns:
        (steps,) factors.
    """
    heard: dict[int, float] = {round(j * steps / len(losses)): loss for j, loss in enumerate(losses, 1)}
    plateau = schedules.Plateau()
    found = []
    for step in range(steps):
        found.append(schedules.factor(config, step, steps) * plateau.factor)
        if step + 1 in heard:
            plateau = plateau.after(config, heard[step + 1])
    return np.array(found)


def sentences(curves: dict[str, Float[NDArray[np.floating], " k"]]) -> tuple[str, ...]:
    """Tell how much of the full rate each spends, when it peaks, and what it ends at."""
    by_mean = sorted(curves, key=lambda name: -curves[name].mean())
    spent = ", ".join(f"{name} {100 * curves[name].mean():.0f} %" for name in by_mean)
    told = [f"Of the full rate's sum over the run each spends: {spent}."]
    late = [f"{name} at step {curve.argmax()}" for name, curve in curves.items() if curve.argmax() > 0]
    if late:
        told.append(f"Highest after the beginning: {', '.join(late)}.")
    low = [f"{name} ({curve[-1]:.2g})" for name, curve in curves.items() if curve[-1] < 0.05]
    if low:
        told.append(f"Below a twentieth of the full rate in the last step: {', '.join(low)}.")
    return tuple(told)


def plot(curves: dict[str, Float[NDArray[np.floating], " k"]], theme: Theme) -> Figure:
    """Draw a panel for each schedule, the others behind it in grey."""
    columns = min(COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    with style(theme):
        figure = Figure(figsize=(3.4 * columns, 1.9 * rows + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for place, axes in enumerate(panels.flat):
            if place >= len(curves):
                axes.set_axis_off()
                continue
            name = list(curves)[place]
            for other in curves.values():
                axes.plot(other, color=theme.grid, linewidth=1)
            axes.plot(curves[name], color=theme.series[0], linewidth=2)
            axes.set_title(name, loc="left")
            axes.set_ylim(-0.05, 1.08)
            if place + columns >= len(curves):
                axes.set_xlabel("step")
                axes.tick_params(labelbottom=True)
        figure.supylabel("factor of the learning rate", color=theme.muted, fontsize=9)
    return figure
