"""What a search tries, what for, and for how long."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from mlml.config.declared import Declared
from mlml.config.sentences import suggest
from mlml.config.space import CategoricalDimension, Dimension, conditions

Direction = Literal["minimize", "maximize"]

NUM_PARAMETERS = "cost/parameters"
"""Metric of every trial: how many numbers its training fits."""

DEFAULT_TRIALS = 20
"""Of a search that declares no budget."""


class SearchConfig(Declared):
    """Base of the configs of mlml/search: what to search, and what to search for.

    Attributes:
        experiment: the experiment whose entry the trials vary.
        objective: the experiment whose metric they are judged by: the same, or a probe of it, or an evaluation, which
            then looks at what each trial trained.
        space: by the dotted path of a value in that entry, the values to try.
        metric: of the objective, on the validation split; a test split that chooses is a test split no more.
        direction: of the metric.
        further_objectives: by metric, the direction: what is to be traded against `metric`. Metrics of the objective on
            the validation split, or "cost/parameters", the numbers that training fits. The search then looks for the
            Pareto front, on which nothing is better in one without being worse in another, and prunes nothing.
        trials: how many, those that are pruned or fail included; 20 if neither this nor `seconds` is given.
        seconds: no trial begins once the trials have taken so long, together, per worker. What a slower machine
            finds in that time is not what a faster one does; `trials` is the budget that anyone can repeat.
        workers: processes that run trials side by side. Trial n is drawn from what is known of the trials up to
            n - 2 workers, with one worker of all before it: whoever finishes first, the search comes to the same end.
        pruner: "median" ends a trial at an evaluation when its best value so far is worse than the median that the
            completed trials had there (Golovin et al. 2017, Google Vizier, section 3.2.2).
            "successive_halving" compares it at rungs, at pruner_min_steps and each time that the steps have grown
            `pruner_reduction`-fold, with the trials that were there before it: it goes on if it is among the best
            1/pruner_reduction of them (Jamieson & Talwalkar 2016, arXiv:1502.07943; one trial after another, as in
            Li et al. 2020, arXiv:1810.05934). "hyperband" deals the trials out to brackets, each of which halves from
            another first rung on, so that a metric which tells late is not lost on early rungs (Li et al. 2018,
            arXiv:1603.06560; their r, R and eta are the three numbers below).
            "asha" stops every trial at its rung. A next trial then takes the best of a rung on to the next rung, from
            its own checkpoint, or begins with new values (Li et al. 2020, Algorithm 2), so that what fell behind can
            still catch up.
        pruner_startup_trials: of "median": completed trials before any is pruned.
        pruner_warmup_steps: of "median": a trial is not pruned before this optimizer step.
        pruner_min_steps: of "successive_halving", "hyperband" and "asha": the optimizer step of the first rung.
        pruner_max_steps: of "hyperband": the optimizer steps of a whole training.
        pruner_reduction: of "successive_halving", "hyperband" and "asha": one trial of so many goes on to the next
            rung.
    """

    experiment: str
    objective: str
    space: dict[str, Dimension]
    metric: str = "validation/loss"
    direction: Direction = "minimize"
    further_objectives: dict[str, Direction] = Field(default_factory=dict)
    trials: PositiveInt | None = None
    seconds: PositiveFloat | None = None
    workers: PositiveInt = 1
    pruner: Literal["median", "none", "successive_halving", "hyperband", "asha"] = "median"
    pruner_startup_trials: NonNegativeInt = 5
    pruner_warmup_steps: NonNegativeInt = 0
    pruner_min_steps: PositiveInt | None = None
    pruner_max_steps: PositiveInt | None = None
    pruner_reduction: Annotated[int, Field(ge=2)] = 3

    @field_validator("metric")
    @classmethod
    def _of_validation(cls, metric: str) -> str:
        return of_validation(metric)

    @field_validator("further_objectives")
    @classmethod
    def _of_validation_or_cost(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        for metric in metrics:
            if metric != NUM_PARAMETERS:
                of_validation(metric)
        return metrics

    @field_validator("space")
    @classmethod
    def _separate_paths(cls, space: dict[str, Any]) -> dict[str, Any]:
        return separate_paths(space)

    @model_validator(mode="after")
    def _several_objectives(self) -> "SearchConfig":
        if self.metric in self.further_objectives:
            raise ValueError(f"further_objectives: {self.metric!r} is the metric itself")
        if self.further_objectives and self.pruner != "none":
            raise ValueError(
                f"a trial that is ahead in one of several objectives is not to be pruned; set pruner to 'none', not "
                f"{self.pruner!r}"
            )
        return self

    @classmethod
    def one_objective(cls, what: str) -> str:
        """The sentence of a sampler that takes a single objective."""
        return f"{what} takes a single objective; use random, quasi_random, tpe or gp with 'log_ei' for several"

    @model_validator(mode="after")
    def _numbers_of_the_pruner(self) -> "SearchConfig":
        needed = {
            "successive_halving": ["pruner_min_steps"],
            "asha": ["pruner_min_steps"],
            "hyperband": ["pruner_min_steps", "pruner_max_steps"],
        }
        for name in ("pruner_min_steps", "pruner_max_steps"):
            given = getattr(self, name) is not None
            if given != (name in needed.get(self.pruner, [])):
                raise ValueError(f"the pruner {self.pruner!r} {'has no' if given else 'needs'} {name}")
        if self.pruner_min_steps and self.pruner_max_steps and self.pruner_min_steps >= self.pruner_max_steps:
            got = f"{self.pruner_min_steps} and {self.pruner_max_steps}"
            raise ValueError(f"needs pruner_min_steps < pruner_max_steps; got {got}")
        return self

    @property
    def directions(self) -> dict[str, Direction]:
        """By metric, the direction, `metric` first."""
        return {self.metric: self.direction, **self.further_objectives}

    @property
    def max_trials(self) -> int | None:
        """How many trials at most; None: as many as there is time for."""
        return DEFAULT_TRIALS if self.trials is None and self.seconds is None else self.trials


def of_validation(metric: str) -> str:
    """Return the name of a metric by which may be chosen.

    Raises:
        ValueError: it is not of the validation split.
    """
    if not metric.startswith("validation/"):
        raise ValueError(f"must be a metric of the validation split, 'validation/...'; got {metric!r}")
    return metric


def separate_paths(space: dict[str, Any]) -> dict[str, Any]:
    """Return a space of which each dimension can be set without another, in its order.

    Raises:
        ValueError: it is empty, a path is faulty or within another, or a condition is one that no draw can meet.
    """
    if not space:
        raise ValueError("must name at least one value to search, by its dotted path")
    for path in space:
        if not all(path.split(".")):
            raise ValueError(f"a dotted path has no empty part; got {path!r}")
        inner = [other for other in space if other.startswith(f"{path}.")]
        if inner:
            raise ValueError(f"{path!r} holds {inner[0]!r}; search one of the two")
    before: dict[str, Any] = {}
    for path, dimension in space.items():
        for parent, value in dimension.when.items():
            _check_parent(path, parent, value, space, before)
        before[path] = dimension
        conditions(before, path)
    return space


def _check_parent(
    path: str, parent: str, value: Any, space: Mapping[str, Dimension], before: Mapping[str, Dimension]
) -> None:
    """Refuse a condition that no draw can meet, or that a draw in the order of the space comes to too early."""
    if parent not in space:
        raise ValueError(f"{path!r} depends on {parent!r}, which is not searched{suggest(parent, space)}")
    dimension = space[parent]
    if not isinstance(dimension, CategoricalDimension):
        raise ValueError(f"{path!r} depends on {parent!r}, which is no categorical dimension but of {dimension.type!r}")
    if parent not in before:
        raise ValueError(f"{path!r} depends on {parent!r} and must stand after it")
    if not dimension.holds(value):
        raise ValueError(f"{path!r} is for {parent!r} = {value!r}, which is none of {list(dimension.choices)}")
