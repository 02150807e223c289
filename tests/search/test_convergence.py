"""Sentences on whether a search has converged, against numbers worked out by hand."""

from importlib import import_module
from typing import Any

import pytest

from mlml.config import SearchConfig, parse
from mlml.search._convergence import sentences
from mlml.search._study import Record

SPACE: dict[str, Any] = {
    "rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "name": {"type": "categorical", "choices": ["adamw", None]},
}
MIDDLE = {"rate": 10**-2.5, "name": None}


def search(direction: str = "minimize", space: dict[str, Any] = SPACE, **more: Any) -> SearchConfig:
    declared = {"experiment": "a", "objective": "a", "direction": direction, "space": space}
    return parse(SearchConfig, {**declared, **more}, "search.s")


def complete(values: list[float], parameters: dict[str, Any] | None = None) -> list[Record]:
    return [Record(k, "complete", value, parameters or MIDDLE, {}, None) for k, value in enumerate(values)]


def said(config: SearchConfig, records: list[Record]) -> str:
    return "\n".join(sentences(config, records))


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1.0), ("maximize", -1.0)])
def test_the_last_third_is_told_in_shares_of_all_that_was_gained(direction: str, sign: float):
    # from 10 to 2, of which 4 - 2 in trials 6 to 8
    late = [10.0, 8.0, 9.0, 6.0, 4.0, 5.0, 7.0, 3.0, 2.0]
    text = sentences(search(direction), complete([sign * value for value in late]))[0]
    assert text == (
        f"validation/loss improved from {10 * sign:g} in trial 0 to {2 * sign:g}, 25 % of that in the last 3 of 9 "
        "trials: it was still improving, give it more trials."
    )
    # from 10 to 2, of which 0.3 in the last third: 3.75 %
    early = [10.0, 8.0, 9.0, 6.0, 2.3, 5.0, 7.0, 2.0, 2.6]
    text = sentences(search(direction), complete([sign * value for value in early]))[0]
    assert text.endswith("4 % of that in the last 3 of 9 trials: the search has converged.")


def test_pruned_and_failed_trials_count_as_trials_but_gain_nothing():
    records = complete([10.0, 8.0, 9.0, 6.0, 4.0, 5.0, 7.0, 5.0, 6.0])
    lost = [Record(9, "pruned", 0.1, MIDDLE, {}, None), Record(10, "failed", None, MIDDLE, {}, "x")]
    text = sentences(search(), [*records, *lost, Record(11, "complete", 1.0, MIDDLE, {}, None)])[0]
    # the last 4 of 12 begin with trial 8; from 10 to 1, of which 4 - 1
    assert "from 10 in trial 0 to 1, 33 % of that in the last 4 of 12 trials" in text


def test_the_beginning_is_the_first_complete_trial():
    records = [
        Record(0, "failed", None, MIDDLE, {}, "x"),
        *complete([0.0, 8.0, 6.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0])[1:],
    ]
    assert "from 8 in trial 1 to 4, 0 % of that" in said(search(), records)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_first_trial_that_stays_the_best_converged_from_nothing(direction: str):
    sign = 1 if direction == "minimize" else -1
    text = said(search(direction), complete([sign * value for value in [1.0, 2, 3, 2, 3, 2, 3, 2, 3]]))
    assert "No trial after the first complete one, trial 0, has a better validation/loss." in text
    assert "converged" not in text


def test_few_trials_tell_nothing_but_that_they_are_few():
    at_bound = {"rate": 1e-1, "name": None}
    text = said(search(), complete([8.0, 7, 6, 5, 4, 3, 2, 1], at_bound))
    assert text == "8 complete trials: too few to tell whether the search has converged (that takes 9)."
    assert said(search(), complete([8.0])).startswith("1 complete trial: too few")
    late = [Record(k, "failed", None, MIDDLE, {}, "x") for k in range(19)]
    late += [record._replace(number=record.number + 19) for record in complete([float(k) for k in range(9)])]
    assert "All complete trials are among the last 9 of 28 trials: too late" in said(search(), late)


def test_a_constant_metric_says_nothing_about_bounds_or_convergence():
    text = said(search(), complete([0.5] * 12, {"rate": 1e-1, "name": None}))
    assert text == "All 12 complete trials have the same validation/loss: nothing tried made a difference."


@pytest.mark.parametrize("method", ["grid", "manual"])
def test_the_order_of_a_plan_says_nothing_of_convergence(method: str):
    more = {"grid": {"points": {"rate": 9}}, "manual": {"values": [MIDDLE] * 9}}[method]
    config = parse(
        getattr(import_module(f"mlml.search.{method}"), method.capitalize()).Config,
        {"experiment": "a", "objective": "a", "space": SPACE, **more},
        "search.s",
    )
    text = said(config, complete([9.0, 8, 7, 6, 5, 4, 3, 2, 1]))
    assert "converged" not in text
    assert "more trials" not in text


def best_at(space: dict[str, Any], parameters: dict[str, Any], direction: str = "minimize") -> list[str]:
    """What is said after the first, on convergence, of a search whose best, and no other, has these values."""
    middle = {path: (space[path]["low"] + space[path]["high"]) / 2 for path in parameters}
    values = [9.0, 8, 7, 6, 5, 4, 3, 2, 1]
    sign = 1 if direction == "minimize" else -1
    records = complete([sign * value for value in values], middle)
    return sentences(search(direction, space), [*records[:8], records[8]._replace(parameters=parameters)])[1:]


LOG = {"a.rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}}
LINEAR = {"a.rate": {"type": "float", "low": 0.0, "high": 10.0}}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize(
    ("space", "value", "start"),
    [
        (LINEAR, 10.0, "a.rate's best lies at the upper bound 10: nothing above was tried"),
        (LINEAR, 9.81, "a.rate's best lies at the upper bound 10, at 9.81: nothing above was tried"),
        (LINEAR, 0.19, "a.rate's best lies at the lower bound 0, at 0.19: nothing below was tried"),
        (LINEAR, 9.79, "The best validation/loss lies inside of all numeric ranges: a.rate's nearest bound is 2 % of"),
        (LINEAR, 7.0, "The best validation/loss lies inside of all numeric ranges: a.rate's nearest bound is 30 % of"),
        # 2 % of three decades is a factor of 10 ** 0.06 = 1.148
        (LOG, 1e-1 / 1.14, "a.rate's best lies at the upper bound 0.1, at 0.0877"),
        (LOG, 1e-1 / 1.16, "The best validation/loss lies inside"),
        (LOG, 1e-4 * 1.14, "a.rate's best lies at the lower bound 0.0001"),
        # a linear scale would put it within 0.1 % of the range
        (LOG, 2e-4, "The best validation/loss lies inside of all numeric ranges: a.rate's nearest bound is 10 % of"),
    ],
)
def test_a_bound_is_told_within_two_percent_of_the_dimension_s_own_scale(
    space: dict[str, Any], value: float, start: str, direction: str
):
    (text,) = best_at(space, {"a.rate": value}, direction)
    assert text.startswith(start)


def test_each_dimension_at_a_bound_has_its_sentence():
    space = {**LINEAR, "width": {"type": "int", "low": 8, "high": 64, "step": 8}, "b": LINEAR["a.rate"]}
    assert best_at(space, {"a.rate": 0.0, "width": 64, "b": 5.0}) == [
        "a.rate's best lies at the lower bound 0: nothing below was tried, so widen the range if it can be wider.",
        "width's best lies at the upper bound 64: nothing above was tried, so widen the range if it can be wider.",
    ]


def test_equals_of_the_best_elsewhere_keep_a_bound_from_being_told():
    records = complete([9.0, 8, 7, 6, 5, 4, 3, 1, 1], {"a.rate": 5.0})
    at_bound = [*records[:7], records[7]._replace(parameters={"a.rate": 10.0}), records[8]]
    assert "bound 10" not in said(search(space=LINEAR), at_bound)
    lowest = [*records[:7], records[7]._replace(parameters={"a.rate": 0.0}), records[8]]
    assert "bound 0" not in said(search(space=LINEAR), lowest)
    both = [*at_bound[:8], records[8]._replace(parameters={"a.rate": 9.9})]
    assert "at the upper bound 10" in said(search(space=LINEAR), both)


def test_dimensions_of_choices_or_not_drawn_by_the_best_have_no_bounds():
    space = {
        "name": {"type": "categorical", "choices": ["adamw", "sgd"]},
        "momentum": {"type": "float", "low": 0.5, "high": 0.99, "when": {"name": "sgd"}},
    }
    records = complete([9.0, 8, 7, 6, 5, 4, 3, 2, 1], {"name": "sgd", "momentum": 0.99})
    assert "momentum's best lies at the upper bound" in said(search(space=space), records)
    records[8] = records[8]._replace(parameters={"name": "adamw"})
    assert len(sentences(search(space=space), records)) == 1


def test_several_objectives_are_told_by_their_front():
    config = search(further_objectives={"cost/parameters": "minimize"}, pruner="none")
    # ever better and ever dearer: all are on the front
    records = [r._replace(further={"cost/parameters": 9.0 - r.value}) for r in complete([9.0, 8, 7, 6, 5, 4, 3, 2, 1])]
    assert sentences(config, records)[0] == (
        "3 of the 9 trials of the Pareto front came in the last 3 of 9 trials: it was still improving, give it more "
        "trials."
    )
    dearer = [*records[:6], *(r._replace(value=9.5 + r.number) for r in records[6:])]
    assert sentences(config, dearer)[0] == (
        "0 of the 6 trials of the Pareto front came in the last 3 of 9 trials: the search has converged."
    )
