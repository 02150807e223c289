"""Samplers of a search on functions whose minimum is known."""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from mlml.config import Declared, sampler_entries, shared_by
from mlml.findings import Findings
from mlml.illustrations._objectives import OBJECTIVES
from mlml.search._regret import baseline, metrics, regrets, sentences, table
from mlml.search._regret_figures import plot_curves, plot_ends

if TYPE_CHECKING:
    from mlml.search._study import Objective, Report

QUANTITY = "regret: best value so far, less the minimum"


class SearchRegret:
    """Every search with as many trials and the same seeds, by the code that searches hyper-parameters.

    What is told is the simple regret: the lowest value so far less the function's minimum.
    """

    class Config(Declared):
        """Numbers of the comparison.

        Attributes:
            function: "branin" has two dimensions and three minima of one depth, "hartmann6" six and one minimum.
            trials: of each search.
            num_seeds: of each search; they are 0, 1, ...
            searches: by a name for the legend, a sampler (`method`) and its own numbers. What they search, for how
                long, is the same for all.
        """

        function: Literal["branin", "hartmann6"]
        trials: PositiveInt = 40
        num_seeds: PositiveInt = 20
        searches: Annotated[dict[str, Any], Field(min_length=1)]

        @field_validator("searches")
        @classmethod
        def _of_samplers(cls, searches: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
            from mlml.illustrations._objectives import OBJECTIVES  # a config is read without its file's imports

            if not {"function", "trials"} <= set(info.data):
                return searches  # what is faulty has its own sentence
            space = OBJECTIVES[info.data["function"]].space()
            shared = shared_by(info.data["function"], space, info.data["trials"], "validation/value")
            return dict(sampler_entries(searches, shared))

    def __init__(self, config: Config) -> None:
        self.config = config

    def illustrate(self) -> Findings:
        """Run every search, and tell how near each comes to the minimum."""
        from mlml.search._comparison import run_all  # not above: it imports Optuna

        config, objective = self.config, OBJECTIVES[self.config.function]

        def evaluate(values: Mapping[str, Any], number: int, folder: Path, report: "Report") -> float:
            return objective.function(values)

        def of_seed(seed: int) -> "Objective":
            return evaluate

        shared = shared_by(config.function, objective.space(), config.trials, "validation/value")
        with tempfile.TemporaryDirectory() as folder:
            searched = run_all(config.searches, shared, range(config.num_seeds), of_seed, Path(folder))
        found, random = regrets(searched, "minimize", objective.minimum), baseline(config.searches)
        pictures = {
            "regret": partial(plot_curves, found, random, QUANTITY),
            "regret at the end": partial(plot_ends, found, random, QUANTITY),
        }
        told = sentences(config.function, found, random)
        return Findings(metrics(found), table(searched, found), pictures, told)
