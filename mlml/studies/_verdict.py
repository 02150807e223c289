"""What a learning curve says of bias and variance: pure functions of its scores.

Notation: a score x counts as (x - baseline) / (ideal - baseline), so that 0 is knowing nothing and 1 the best there
can be, whether the score is an accuracy or a loss. Of that, *variance* is what validation lacks to train, and *bias*
what the better of the two lacks to 1 (Geman et al. 1992, Neural Computation 4, as practitioners read it: Ng 2018,
"Machine Learning Yearning", chapters 20 to 32).
"""

from collections.abc import Sequence
from typing import NamedTuple

from mlml.config import is_share
from mlml.diagnostics import HIGH_VARIANCE, bias_variance

CLOSING = 0.5
"""A gap that more data shrinks to this share of it is closing."""


class Point(NamedTuple):
    """Mean scores over seeds after training on some images."""

    images: int
    train: float
    validation: float


class Scale(NamedTuple):
    """How to read a score.

    Attributes:
        baseline: of who knows nothing.
        ideal: 1 for an accuracy, 0 for a loss.
    """

    quantity: str
    baseline: float
    ideal: float

    def share(self, score: float) -> float:
        """The score between the baseline, 0, and the ideal, 1."""
        return (score - self.baseline) / (self.ideal - self.baseline)

    def text(self, score: float) -> str:
        """A score as people read it."""
        return f"{100 * score:.1f} %" if is_share(self.quantity) else f"{score:.3g}"


def variance(point: Point, scale: Scale) -> float:
    """What validation lacks to train, as a share of all there is to learn."""
    return scale.share(point.train) - scale.share(point.validation)


def diagnosis(point: Point, scale: Scale) -> str:
    """Return "high variance", "high bias", or "neither", as `bias_variance` has it."""
    found = bias_variance(point.train, point.validation, scale.baseline, scale.ideal, scale.quantity)
    return "neither" if found is None else found.kind


def sentences(
    name: str, points: Sequence[Point], scale: Scale, num_seeds: int, loss_falls: bool = True
) -> tuple[str, ...]:
    """Tell the curve, and what would help.

    Args:
        name: of the experiment.
        points: by increasing number of images; two or more.
        scale: how to read the scores.
        num_seeds: over which the scores are means.
        loss_falls: what the method's class says; where it need not, bias and variance are not told.
    """
    first, last = points[0], points[-1]
    seeds = "1 seed" if num_seeds == 1 else f"means of {num_seeds} seeds"
    course = (
        f"{name}: {scale.quantity} on validation goes from {scale.text(first.validation)} with {first.images} images "
        f"to {scale.text(last.validation)} with {last.images}; its distance to train from {_gap(first, scale)} to "
        f"{_gap(last, scale)} ({seeds})."
    )
    if not loss_falls:
        return course, f"What {name} is measured by moves with it, so it tells nothing of bias and variance."
    told = [course, *(_told(point, scale) for point in (first, last))]
    before, after = variance(first, scale), variance(last, scale)
    if before > HIGH_VARIANCE and after <= CLOSING * before:
        told.append("The gap closes as data grows: at the beginning it was variance, and more images were the cure.")
    elif diagnosis(last, scale) == "high bias" and diagnosis(first, scale) != "high variance":
        told.append("Both curves are flat and low: more images would not help.")
    return tuple(told)


def _gap(point: Point, scale: Scale) -> str:
    size = abs(point.train - point.validation)
    return f"{100 * size:.1f} points" if is_share(scale.quantity) else f"{size:.3g}"


def _told(point: Point, scale: Scale) -> str:
    kind = diagnosis(point, scale)
    scores = f"train {scale.text(point.train)}, validation {scale.text(point.validation)}"
    beginning = f"With {point.images} images ({scores}): "
    if kind == "high variance":
        return f"{beginning}high variance; more data or regularisation would help."
    if kind == "high bias":
        return f"{beginning}high bias; a larger network, longer training or less regularisation would help."
    return f"{beginning}neither high bias nor high variance."
