"""What the report compares, and which way a metric is better."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mlml.config.declared import Declared


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1, by its name: more is better, and it is shown in percent."""
    names = ("accuracy", "iou", "precision", "recall", "coverage", "agreement", "exact_match", "outside_equal")
    return metric.endswith(names)


class ComparisonConfig(Declared):
    """An entry of `report.comparisons`: experiments that the page sets side by side.

    Attributes:
        question: what the comparison is to answer, in words.
        metric: of the test or the validation split.
        direction: which way the metric is better; to be given unless it is an accuracy or a loss.
        of: names of experiments.
    """

    title: Annotated[str, Field(min_length=1)]
    question: str | None = None
    metric: str = "test/accuracy"
    direction: Literal["maximize", "minimize"] | None = None
    of: tuple[str, ...]

    @field_validator("metric")
    @classmethod
    def _of_a_split(cls, metric: str) -> str:
        if not metric.startswith(("test/", "validation/")):
            raise ValueError(f"must be a metric of a split, 'test/...' or 'validation/...'; got {metric!r}")
        return metric

    @field_validator("of")
    @classmethod
    def _distinct(cls, of: tuple[str, ...]) -> tuple[str, ...]:
        if len(of) < 2 or len(set(of)) < len(of):
            raise ValueError(f"must name two or more different experiments; got {list(of)}")
        return of

    @model_validator(mode="after")
    def _one_way(self) -> "ComparisonConfig":
        if self.direction is None and not is_share(self.metric) and not self.metric.endswith("loss"):
            raise ValueError(f"give 'direction', maximize or minimize: {self.metric!r} does not tell by its name")
        return self

    @property
    def maximize(self) -> bool:
        """Whether more of the metric is better."""
        return self.direction == "maximize" if self.direction is not None else is_share(self.metric)
