"""Samplers of a search on a real experiment."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from mlml.config import (
    Dimension,
    Direction,
    StudyConfig,
    of_validation,
    sampler_entries,
    separate_paths,
    shared_by,
)
from mlml.findings import Findings
from mlml.search._regret import baseline, metrics, regrets, sentences, table
from mlml.search._regret_figures import plot_curves, plot_ends
from mlml.studies._subject import Subject

if TYPE_CHECKING:
    from mlml.search._study import Objective, Report


class SearchRegret:
    """Every search with as many trials and the same seeds; each trial is a training by the one loop.

    With a seed, both the searches and their trainings have that seed, so that the searches of one seed look at one
    function of the searched values. What is told is the simple regret: the best value so far, as a distance to the
    best that any search with that seed found, for nobody knows the optimum. Test is not read.
    """

    class Config(StudyConfig):
        """Numbers of the study.

        Attributes:
            space: by the dotted path of a value in the experiment's entry, the values to try.
            metric: of the validation split.
            direction: of the metric.
            trials: of each search.
            searches: by a name for the legend, a sampler (`method`) and its own numbers. What they search, for how
                long, is the same for all.
        """

        space: dict[str, Dimension]
        metric: str = "validation/loss"
        direction: Direction = "minimize"
        trials: PositiveInt = 30
        searches: Annotated[dict[str, Any], Field(min_length=1)]

        @field_validator("space")
        @classmethod
        def _separate_paths(cls, space: dict[str, Any]) -> dict[str, Any]:
            return separate_paths(space)

        @field_validator("metric")
        @classmethod
        def _of_validation(cls, metric: str) -> str:
            return of_validation(metric)

        @field_validator("searches")
        @classmethod
        def _of_samplers(cls, searches: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
            given = info.data
            if not {"space", "metric", "direction", "trials"} <= set(given):
                return searches  # what is faulty has its own sentence
            shared = shared_by("experiment", given["space"], given["trials"], given["metric"], given["direction"])
            return dict(sampler_entries(searches, shared))

    def __init__(self, config: Config) -> None:
        self.config = config

    def study(self, subject: Subject) -> Findings:
        """Run every search with every seed, and tell how near each comes to the best that was found.

        Raises:
            SearchError: no trial of a search was completed.
        """
        from mlml.search._comparison import run_all  # not above: it imports Optuna

        config = self.config

        def of_seed(seed: int) -> "Objective":
            def train(overrides: Mapping[str, Any], number: int, folder: Path, report: "Report") -> float:
                measured = subject.train_otherwise(overrides, seed, folder)
                if config.metric not in measured:
                    has = ", ".join(measured)
                    raise ValueError(f"search_regret: {subject.name!r} has no {config.metric!r}; it has {has}")
                return measured[config.metric]

            return train

        shared = shared_by(subject.name, config.space, config.trials, config.metric, config.direction)
        searched = run_all(config.searches, shared, subject.seeds, of_seed, subject.folder)
        found, random = regrets(searched, config.direction), baseline(config.searches)
        quantity = f"regret: distance of the best {config.metric} so far to the best of all"
        pictures = {
            "regret": partial(plot_curves, found, random, quantity),
            "regret at the end": partial(plot_ends, found, random, quantity),
        }
        told = sentences(f"{config.metric} of {subject.name}", found, random)
        return Findings(metrics(found), table(searched, found), pictures, told)
