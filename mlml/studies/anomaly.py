"""Anomaly detection by reconstruction error: an autoencoder that never saw a class is to find it.

Notation: n test images; the error of an image is the mean squared difference between it and its reconstruction.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, field_validator
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mlml.config import StudyConfig, suggest
from mlml.data.batches import Batches
from mlml.data.dataset import PreparedData, Split
from mlml.data.parts import picked
from mlml.data.prepare import channel_statistics
from mlml.figures import Theme, style
from mlml.findings import Findings
from mlml.method import Method, Reconstructs
from mlml.statistics import summarise
from mlml.studies._subject import Subject
from mlml.train import total_steps

CHANCE = 0.5
"""The area under the curve of who guesses."""


class Seen(NamedTuple):
    """Test images, and what became of them, ordered by their error.

    Attributes:
        anomalous: whether an image is of the class that was left out.
    """

    images: Float[NDArray[np.floating], "k c h w"]
    reconstructions: Float[NDArray[np.floating], "k c h w"]
    anomalous: Bool[NDArray[np.bool_], " k"]


class Anomaly:
    """Trains an experiment without one class, and finds that class among the test images by the reconstruction error.

    Such an autoencoder knows how to code what it has seen, and so what it has not seen comes out worse (Japkowicz et
    al. 1995, IJCAI). For each class and seed: the class is left out of train and validation, the experiment is trained
    anew for as many optimizer steps as it has itself, and the area under the ROC curve (AUROC) tells how often an image
    of the class has a greater error than another. Labels are read for that alone. Mean and deviation of the pixels are
    those of what is left.
    """

    targets = "labels"

    class Config(StudyConfig):
        """Numbers of the study.

        Attributes:
            classes: names of those that are left out, one at a time; null for each.
            num_images: how many best, and how many worst, are shown of each class.
        """

        classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
        num_images: PositiveInt = 8

        @field_validator("classes")
        @classmethod
        def _distinct(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
            if classes is not None and len(set(classes)) < len(classes):
                raise ValueError(f"must be different from each other; got {list(classes)}")
            return classes

    def __init__(self, config: Config) -> None:
        self.config = config

    def study(self, subject: Subject) -> Findings:
        """Train without each class with every seed, and tell how well it was found.

        Raises:
            ValueError: the experiment does not reconstruct, or a class is unknown, has no test image, or is the only
                one.
        """
        left_out = self._classes(subject)
        rows, shown = [], {}
        for seed in subject.seeds:
            num_batches, num_phases = subject.split("train", seed).num_batches, len(subject.build(seed).phases)
            steps = total_steps(subject.config.train, num_batches, num_phases)
            test = subject.split("test", seed)
            for number in left_out:
                row, seen = self._measure(subject, number, seed, steps, test)
                rows.append(row)
                if seed == subject.seeds[0]:
                    shown[str(row["class"])] = seen
        table = pd.DataFrame(rows)
        metrics = {seed: _metrics(table[table["seed"] == seed]) for seed in subject.seeds}
        pictures = {"auroc": partial(plot, table), "best and worst images": partial(sheet, shown)}
        return Findings(metrics, table, pictures, sentences(subject.name, table))

    def _classes(self, subject: Subject) -> list[int]:
        """Numbers of the classes to leave out; everything that cannot be studied is refused before any training."""
        names, wanted = subject.data.spec.classes, self.config.classes
        if not isinstance(subject.build(subject.seeds[0]), Reconstructs):
            raise ValueError(f"anomaly: {subject.name!r} does not reconstruct images; name an autoencoder's experiment")
        if not names:
            raise ValueError(
                f"anomaly: needs classes to leave out; {subject.data.spec.name!r}: the data has no classes"
            )
        for name in wanted or ():
            if name not in names:
                where = f"{subject.data.spec.name!r}{suggest(name, names)}"
                raise ValueError(f"anomaly: classes: there is no class {name!r} in {where}")
        chosen = [number for number, name in enumerate(names) if wanted is None or name in wanted]
        for number in chosen:
            for split in ("train", "validation", "test"):
                present = np.unique(_labels(subject.data.split(split)))
                if set(present) <= {number} or (split == "test" and number not in present):
                    where = f"split {split!r} of {subject.data.spec.name!r}"
                    raise ValueError(
                        f"anomaly: {where} must hold images of other classes than "
                        f"{names[number]!r}{', and of that' if split == 'test' else ''}; leave it out of 'classes'"
                    )
        return chosen

    def _measure(
        self, subject: Subject, number: int, seed: int, steps: int, test: Batches
    ) -> tuple[dict[str, float | str], Seen]:
        rest = WithoutClass(subject.data, number)
        method, _ = subject.train(f"without_{number}_seed_{seed}", rest, seed, steps)
        errors, labels = reconstruction_errors(method.eval(), test)
        anomalous = labels == number
        row: dict[str, float | str] = {
            "class": subject.data.spec.classes[number],
            "number": number,
            "seed": seed,
            "auroc": float(roc_auc_score(anomalous, errors)),
            "error": float(errors[anomalous].mean()),
            "error_of_others": float(errors[~anomalous].mean()),
            "images": int(anomalous.sum()),
            "others": int((~anomalous).sum()),
        }
        return row, _seen(method, test, errors, anomalous, self.config.num_images)


class WithoutClass(PreparedData):
    """Prepared data without one class in train and validation; test is whole.

    Mean and deviation of the pixels are those of the train images that are left.

    Args:
        data: the whole.
        number: of the class.
    """

    def __init__(self, data: PreparedData, number: int) -> None:
        self.folder, self.number = data.folder, number
        train = data.split("train")
        mean, std = channel_statistics(train.images, np.flatnonzero(_labels(train) != number))
        self.spec = data.spec.model_copy(update={"mean": mean, "std": std})

    def split(self, name: str) -> Split:
        """Open a split."""
        whole = super().split(name)
        return whole if name == "test" else picked(whole, np.flatnonzero(_labels(whole) != self.number))


def _labels(split: Split) -> Int[NDArray[np.int64], " n"]:
    if split.labels is None:
        raise ValueError("anomaly: needs labels, to leave a class out; the data has none")
    return split.labels


@torch.no_grad()
def reconstruction_errors(
    method: Method, batches: Batches
) -> tuple[Float[NDArray[np.float64], " n"], Int[NDArray[np.int64], " n"]]:
    """Return the mean squared error of each image of a split, in order, and the labels."""
    assert isinstance(method, Reconstructs)
    errors: list[Tensor] = []
    labels: list[Tensor] = []
    for index in batches.in_order():
        images, truth = batches.at(index)
        errors.append((method.reconstruct(images).double() - images.double()).square().flatten(1).mean(1))
        labels.append(truth)
    return torch.cat(errors).cpu().numpy(), torch.cat(labels).cpu().numpy()


@torch.no_grad()
def _seen(
    method: Method,
    batches: Batches,
    errors: Float[NDArray[np.floating], " n"],
    anomalous: Bool[NDArray[np.bool_], " n"],
    count: int,
) -> Seen:
    """The images of the least and of the greatest errors; each once, where the split is small."""
    assert isinstance(method, Reconstructs)
    order = np.argsort(errors, kind="stable")
    count = min(count, len(order) // 2)
    order = np.concatenate([order[:count], order[len(order) - count :]])
    images = batches.at(torch.from_numpy(order)).images
    return Seen(images.cpu().numpy(), method.reconstruct(images).float().cpu().numpy(), anomalous[order])


def _metrics(rows: pd.DataFrame) -> dict[str, float]:
    """Of one seed: the AUROC of each class by its number, for a name may be anything, and their mean."""
    by_class = {f"test/auroc/class_{n}": float(value) for n, value in zip(rows["number"], rows["auroc"], strict=True)}
    return {"test/auroc": float(rows["auroc"].mean()), **by_class}


def sentences(name: str, table: pd.DataFrame) -> tuple[str, ...]:
    """Tell which classes were found best and worst, and what lies below chance."""
    means = table.groupby("class", sort=False)["auroc"].mean()
    num_seeds = table["seed"].nunique()
    seeds = "1 seed" if num_seeds == 1 else f"means of {num_seeds} seeds"
    told = [f"{name}: trained without a class, it finds that class with an AUROC of {means.mean():.3f} ({seeds})."]
    if len(means) > 1:
        best, worst = str(means.idxmax()), str(means.idxmin())
        told.append(
            f"Of {len(means)} classes {best!r} is found best, {means[best]:.3f}, {worst!r} worst, {means[worst]:.3f}; "
            "0.5 is chance."
        )
    below = [repr(str(label)) for label, value in means.items() if value < CHANCE]
    if below:
        told.append(f"Below chance: {', '.join(below)}; without having seen it, it comes out better than the others.")
    return tuple(told)


def plot(table: pd.DataFrame, theme: Theme) -> Figure:
    """Plot the AUROC of each class that was left out: a dot for each seed, their mean and its 95 % interval."""
    names = list(dict.fromkeys(table["class"]))
    with style(theme):
        figure = Figure(figsize=(6.4, 1.0 + 0.32 * len(names)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for place, name in enumerate(names):
            rows = table[table["class"] == name]
            summary = summarise(dict(zip(rows["seed"], rows["auroc"], strict=True)))
            mean = float(rows["auroc"].mean())
            axes.errorbar(mean, place, xerr=summary["interval95"] or 0.0, color=theme.series[0], alpha=0.55)
            axes.plot(mean, place, "o", color=theme.series[0], markersize=7)
            axes.plot(rows["auroc"], [place] * len(rows), ".", color=theme.series[0], alpha=0.6)
        axes.axvline(CHANCE, color=theme.muted, linewidth=1, linestyle=(0, (2, 2)), label="chance")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(min(0.0, CHANCE, float(table["auroc"].min())), 1.02)
        axes.set_xlabel("AUROC on test of the class that was left out")
        figure.legend(loc="outside upper right")
    return figure


def sheet(shown: Mapping[str, Seen], theme: Theme) -> Figure:
    """Show the images with the least error, left, and the greatest, right, above their reconstructions.

    Two rows for each class that was left out; its images have a frame.
    """
    columns = max(len(seen.images) for seen in shown.values())
    with style(theme):
        figure = Figure(figsize=(1.2 + 0.62 * columns, 0.5 + 1.3 * len(shown)), layout="constrained")
        FigureCanvasAgg(figure)
        places = figure.subplots(2 * len(shown), columns, squeeze=False)
        for place in places.flat:
            place.set_axis_off()
        for row, (name, seen) in enumerate(shown.items()):
            for column in range(len(seen.images)):
                pair = (seen.images[column], seen.reconstructions[column])
                for below, picture in enumerate(pair):
                    _picture(places[2 * row + below, column], picture, bool(seen.anomalous[column]), theme)
            places[2 * row, 0].set_title(f"without {name}: least error", loc="left", fontsize=8)
            places[2 * row, columns // 2].set_title("greatest error", loc="left", fontsize=8)
    return figure


def _picture(place: Axes, image: Float[NDArray[np.floating], "c h w"], framed: bool, theme: Theme) -> None:
    pixels = image.transpose(1, 2, 0)
    place.imshow(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), interpolation="nearest", vmin=0, vmax=1)
    place.set_axis_on()
    place.set_xticks([])
    place.set_yticks([])
    for spine in place.spines.values():
        spine.set_visible(framed)
        spine.set_color(theme.series[1])
        spine.set_linewidth(2.0)
