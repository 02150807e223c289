"""Likelihood: how likely a generator finds images that it has not seen, beside those that it has learnt from."""

from functools import partial
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import Field, PositiveInt

from mlml.config import StudyConfig
from mlml.figures import Theme, style
from mlml.findings import Findings
from mlml.method import Likelihood
from mlml.metrics import bits_per_dimension
from mlml.seeds import generator
from mlml.statistics import summarise
from mlml.studies._subject import Subject

SPLITS = ("train", "test")
BATCH_SIZE = 64


class LogLikelihood:
    """The importance-weighted bound on the log-likelihood of images of train and test, in nats.

    Burda et al. 2016, arXiv:1509.00519, Eq. 8: the more draws, the nearer the bound is to the likelihood. Images are
    spread evenly over each split. A likelihood says little of how good samples look (Theis et al. 2016,
    arXiv:1511.01844, section 3.2): `sample_quality` measures that.
    """

    needs = "log_likelihood"

    class Config(StudyConfig):
        """Numbers of the study.

        Attributes:
            num_draws: of the posterior, for each image.
            num_images: of each split; all of a smaller one.
        """

        num_draws: PositiveInt = 200
        num_images: Annotated[int, Field(ge=2)] = 1000

    def __init__(self, config: Config) -> None:
        self.config = config

    def study(self, subject: Subject) -> Findings:
        """Measure every seed, and tell whether images that were learnt from are more likely than others."""
        table = pd.concat([self._measure(subject, seed, split) for seed in subject.seeds for split in SPLITS])
        means = table.groupby(["seed", "split"])["log_likelihood"].mean()
        metrics = {
            seed: {f"{split}/log_likelihood": float(means[seed, split]) for split in SPLITS} for seed in subject.seeds
        }
        if is_density(subject):
            pixels = subject.data.spec.channels * subject.data.spec.height * subject.data.spec.width
            for values in metrics.values():
                values |= {
                    f"{split}/bits_per_dim": bits_per_dimension(values[f"{split}/log_likelihood"], pixels)
                    for split in SPLITS
                }
        told = sentences(subject.name, metrics, self.config.num_draws)
        return Findings(metrics, table, {"log-likelihood of images": partial(plot, table)}, told)

    def _measure(self, subject: Subject, seed: int, split: str) -> pd.DataFrame:
        method = subject.load(seed)
        if not isinstance(method, Likelihood):
            raise TypeError(f"likelihood: {subject.name!r} has no 'log_likelihood', so there is nothing to study")
        batches, draws = subject.split(split, seed), generator(subject.device, seed, "likelihood", split)
        parts = []
        with torch.no_grad():
            for index in torch.split(batches.sample(self.config.num_images), BATCH_SIZE):
                parts.append(method.log_likelihood(batches.at(index).images, self.config.num_draws, draws).double())
        values = torch.cat(parts).cpu().numpy()
        return pd.DataFrame({"seed": seed, "split": split, "log_likelihood": values})


def is_density(subject: Subject) -> bool:
    """Whether the likelihood is a density over grey values, which alone can be told in bits: Bernoulli's is not."""
    return getattr(subject.config, "likelihood", None) != "bernoulli"


def sentences(name: str, metrics: dict[int, dict[str, float]], num_draws: int) -> tuple[str, ...]:
    """What was seen: the likelihood of test, and how much of that of train is lost there."""
    by_split = {
        split: summarise({seed: values[f"{split}/log_likelihood"] for seed, values in metrics.items()})
        for split in SPLITS
    }
    loss = summarise({seed: v["train/log_likelihood"] - v["test/log_likelihood"] for seed, v in metrics.items()})

    def text(summary: dict[str, float | None]) -> str:
        half = summary["interval95"]
        return f"{summary['mean']:.4g}" + ("" if half is None else f" ± {half:.2g}")

    mean = loss["mean"]
    assert mean is not None
    than = "less" if mean > 0 else "more"
    apart = {key: abs(value) if key == "mean" and value is not None else value for key, value in loss.items()}
    return (
        f"{name}: the log-likelihood of a test image is {text(by_split['test'])} nats (a bound by {num_draws} draws).",
        f"That is {text(apart)} nats {than} than that of an image it has learnt from ({text(by_split['train'])}).",
    )


def plot(table: pd.DataFrame, theme: Theme) -> Figure:
    """Plot how often each log-likelihood comes, in train and in test, of all seeds together."""
    edges = np.histogram_bin_edges(table["log_likelihood"], 40)
    with style(theme):
        figure = Figure(figsize=(7.0, 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for split, colour in (("train", theme.series[1]), ("test", theme.series[0])):
            values = table[table["split"] == split]["log_likelihood"]
            weights = np.full(len(values), 100 / len(values))
            axes.hist(values, edges.tolist(), weights=weights, color=colour, alpha=0.45, label=split)
            axes.axvline(values.mean(), color=colour, linewidth=1.4)
        axes.set_xlabel("log-likelihood of an image, nats")
        axes.set_ylabel("images, %")
        axes.legend()
    return figure
