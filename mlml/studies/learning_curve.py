"""Learning curve: the score over growing parts of the train split, and what that says of bias and variance.

Notation: `r` fractions of the train split, `s` seeds.
"""

from functools import partial
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray
from pydantic import Field, field_validator

from mlml.config import StudyConfig, is_share
from mlml.data.parts import Reduced, nested
from mlml.figures import Theme, style
from mlml.findings import Findings
from mlml.statistics import summarise
from mlml.studies._subject import Subject
from mlml.studies._verdict import Point, Scale, sentences
from mlml.train import evaluate, total_steps


class LearningCurve:
    """Trains an experiment on nested, stratified parts of its train split (Cortes et al. 1994, NIPS 6).

    Every part gets as many optimizer steps as the experiment itself, so that only the data differs; with as many
    epochs, a small part would get few steps, and its low score would tell of those. What a smaller part contains, a
    larger one contains too. Scores are those of the final weights, on the part itself and on the whole validation
    split; test is not read. The part 1.0 is the experiment itself, bit for bit if that trains in one process.
    """

    class Config(StudyConfig):
        """Numbers of the study.

        Attributes:
            fractions: of the train split, increasing.
            metric: of the validation split; its twin is measured on what was trained on.
        """

        fractions: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=2)] = (
            0.1,
            0.2,
            0.5,
            1.0,
        )
        metric: Literal["validation/accuracy", "validation/loss"] = "validation/accuracy"

        @field_validator("fractions")
        @classmethod
        def _increasing(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
            if list(fractions) != sorted(set(fractions)):
                raise ValueError(f"must increase; got {list(fractions)}")
            return fractions

    def __init__(self, config: Config) -> None:
        self.config = config
        self.quantity = config.metric.partition("/")[2]

    def study(self, subject: Subject) -> Findings:
        """Train every part with every seed, and tell what the scores say."""
        rows = [
            {"fraction": fraction, "seed": seed, **self._measure(subject, fraction, seed)}
            for seed in subject.seeds
            for fraction in self.config.fractions
        ]
        table = pd.DataFrame(rows)
        metrics = {
            seed: {
                f"fraction_{row['fraction']:g}/{split}/{self.quantity}": float(row[split])
                for row in rows
                if row["seed"] == seed
                for split in ("train", "validation")
            }
            for seed in subject.seeds
        }
        by_fraction = table.groupby("fraction")[["images", "train", "validation"]].mean().to_dict("records")
        points = [Point(round(row["images"]), row["train"], row["validation"]) for row in by_fraction]
        scale = Scale(self.quantity, self._baseline(subject), 1.0 if is_share(self.quantity) else 0.0)
        falls = subject.build(subject.seeds[0]).loss_falls
        told = sentences(subject.name, points, scale, len(subject.seeds), falls)
        return Findings(metrics, table, {"learning curve": partial(plot, table, self.quantity)}, told)

    def _measure(self, subject: Subject, fraction: float, seed: int) -> dict[str, float]:
        chosen = nested(subject.data, fraction, seed)
        part = Reduced(subject.data, chosen)
        num_batches, num_phases = subject.split("train", seed).num_batches, len(subject.build(seed).phases)
        steps = total_steps(subject.config.train, num_batches, num_phases)
        method, metrics = subject.train(f"fraction_{fraction:g}_seed_{seed}", part, seed, steps)
        own = evaluate(method, subject.split("train", seed, part), seed)
        if self.quantity not in own:
            raise ValueError(
                f"learning_curve: {subject.name!r} does not measure {self.quantity!r}; it has {', '.join(own)}"
            )
        validation = metrics[f"validation/{self.quantity}"]
        return {"images": float(len(chosen)), "train": own[self.quantity], "validation": validation}

    def _baseline(self, subject: Subject) -> float:
        """The score of who knows nothing: the share of the most frequent class, or the untrained network's loss."""
        labels = subject.data.split("train").labels
        if is_share(self.quantity) and labels is not None:
            return float(np.bincount(labels.ravel()).max() / labels.size)
        seed = subject.seeds[0]
        return evaluate(subject.build(seed), subject.split("validation", seed), seed)[self.quantity]


def plot(table: pd.DataFrame, quantity: str, theme: Theme) -> Figure:
    """Plot train and validation score over the number of train images: dots by seed, means, and 95 % intervals."""
    factor = 100.0 if is_share(quantity) else 1.0
    with style(theme):
        figure = Figure(figsize=(7.0, 3.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for split, colour in (("train", theme.series[1]), ("validation", theme.series[0])):
            means, spread = _means(table, split)
            x, y = means[:, 0], factor * means[:, 1]
            axes.plot(x, y, "o-", color=colour, linewidth=1.8, markersize=5, label=split)
            axes.fill_between(x, y - factor * spread, y + factor * spread, color=colour, alpha=0.13, linewidth=0)
            axes.plot(table["images"], factor * table[split], ".", color=colour, alpha=0.5, markersize=4)
        low, high = sorted(factor * table[["train", "validation"]].to_numpy().ravel())[:: len(table) * 2 - 1]
        margin = 0.08 * max(high - low, 1e-9)
        axes.set_ylim(low - margin, high + margin)  # an interval of two seeds may be wider than the page
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(list(means[:, 0])))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{count:.0f}" for count in means[:, 0]])
        axes.set_xlabel("train images")
        axes.set_ylabel(f"{quantity}{', %' if is_share(quantity) else ''}")
        axes.legend()
    return figure


def _means(
    table: pd.DataFrame, split: str
) -> tuple[Float[NDArray[np.floating], "r 2"], Float[NDArray[np.floating], " r"]]:
    """Number of images and mean score of each fraction, and the half-width of the mean's interval (0 for one seed)."""
    means, spread = [], []
    for _, rows in table.groupby("fraction"):
        summary = summarise(dict(zip(rows["seed"], rows[split], strict=True)))
        means.append([rows["images"].mean(), summary["mean"]])
        spread.append(summary["interval95"] or 0.0)
    return np.array(means, dtype=float), np.array(spread)
