"""Compared searches run the samplers of a search, regrets are those by hand, words are the numbers'."""

import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_rel

from mlml import catalogue, figures
from mlml.config import DeclarationError, sampler_entries, shared_by
from mlml.search._comparison import run_all
from mlml.search._regret import against, baseline, incumbents, metrics, ratio, regrets, sentences, table
from mlml.search._regret_figures import curve, lower_edge, plot_curves, plot_ends
from mlml.search._study import Record, SearchError, run_study

SPACE = {"x": {"type": "float", "low": -1.0, "high": 1.0}, "y": {"type": "float", "low": -1.0, "high": 1.0}}
SHARED = shared_by("bowl", SPACE, 12, "validation/value")
ENTRIES = {
    "grid": {"method": "grid", "points": {"x": 4, "y": 3}},
    "luck": {"method": "random"},
    "tree": {"method": "tpe", "startup_trials": 4},
}


def bowl(values: dict[str, Any], *_: Any) -> float:
    return float((values["x"] - 0.3) ** 2 + 4 * (values["y"] + 0.4) ** 2)


def record(number: int, value: float | None, state: Any = "complete") -> Record:
    return Record(number, state, value, {"x": float(number)}, {}, None)


def records(*values: float | None) -> list[Record]:
    return [record(k, value, "failed" if value is None else "complete") for k, value in enumerate(values)]


def test_each_search_is_the_one_that_a_stage_would_run(tmp_path: Path):
    searches = sampler_entries(ENTRIES, SHARED)
    found = run_all(searches, SHARED, (0, 3), lambda seed: lambda v, *_: bowl(v) + seed, tmp_path / "all")
    assert list(found) == list(ENTRIES)
    for label, entry in ENTRIES.items():
        cls = catalogue.method_class("search", entry["method"])
        own = {key: value for key, value in entry.items() if key != "method"}
        search = cls(cls.Config.model_validate({**own, **SHARED}))
        for seed in (0, 3):
            alone = run_study(
                search.config, search.sampler, tmp_path / label / str(seed), lambda v, *_, s=seed: bowl(v) + s, seed
            )
            assert found[label][seed] == alone
            assert len(alone) == 12
    assert found["tree"][0] != found["tree"][3]


def test_a_killed_comparison_ends_as_if_it_had_not_been(tmp_path: Path):
    searches = sampler_entries(ENTRIES, SHARED)
    whole = run_all(searches, SHARED, (0, 1), lambda _: bowl, tmp_path / "whole")
    ran: list[int] = []

    class Killed(BaseException):
        pass

    def dying(values: dict[str, Any], number: int, *_: Any) -> float:
        if len(ran) == 50:
            raise Killed
        ran.append(number)
        return bowl(values)

    with pytest.raises(Killed):
        run_all(searches, SHARED, (0, 1), lambda _: dying, tmp_path / "parts")
    again: list[int] = []

    def counting(values: dict[str, Any], number: int, *_: Any) -> float:
        again.append(number)
        return bowl(values)

    parts = run_all(searches, SHARED, (0, 1), lambda _: counting, tmp_path / "parts")
    values = {label: {s: [r.value for r in of] for s, of in by.items()} for label, by in whole.items()}
    assert {label: {s: [r.value for r in of] for s, of in by.items()} for label, by in parts.items()} == values
    assert len(again) == 3 * 2 * 12 - 50


def test_a_comparison_lies_in_its_folder_whatever_database_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nowhere = "postgresql://127.0.0.1:9/optuna"
    monkeypatch.setenv("MLML_OPTUNA_STORAGE", nowhere)
    searches = sampler_entries({"luck": {"method": "random"}}, SHARED)
    run_all(searches, SHARED, (5,), lambda _: bowl, tmp_path)
    assert list(tmp_path.glob("luck/seed_5/journal.log"))
    assert os.environ["MLML_OPTUNA_STORAGE"] == nowhere


def test_a_search_is_one_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    searches = sampler_entries({"luck": {"method": "random"}}, SHARED)
    found = run_all(searches, SHARED, (5,), lambda _: bowl, tmp_path / "all")
    best = min(found["luck"][5], key=lambda each: each.value or math.inf)
    [line] = [each.getMessage() for each in caplog.records if each.name.startswith("mlml")]
    assert line == f"luck, seed 5: the best of 12 trials is {best.number}: {best.value}"


def test_a_search_that_finds_nothing_ends_the_comparison(tmp_path: Path):
    def broken(*_: Any) -> float:
        raise ValueError("no such thing")

    with pytest.raises(SearchError, match="no such thing"):
        run_all(sampler_entries(ENTRIES, SHARED), SHARED, (0,), lambda _: broken, tmp_path)
    assert logging.getLogger("mlml.search._study").level == logging.NOTSET


def test_incumbents_pass_over_what_is_not_complete():
    trials = [*records(None, 3.0, 4.0, None, 1.0), record(5, 0.0, "pruned")]
    np.testing.assert_array_equal(incumbents(trials, "minimize"), [math.nan, 3, 3, 3, 1, 1])
    np.testing.assert_array_equal(incumbents(trials, "maximize"), [math.nan, 3, 4, 4, 4, 4])


def test_regret_is_the_distance_to_the_minimum_or_to_the_best_of_the_seed():
    searched = {"a": {0: records(3.0, 1.0), 1: records(5.0, 6.0)}, "b": {0: records(2.0, 4.0), 1: records(4.5, 4.0)}}
    known = regrets(searched, "minimize", 0.5)
    assert {label: {s: v.tolist() for s, v in of.items()} for label, of in known.items()} == {
        "a": {0: [2.5, 0.5], 1: [4.5, 4.5]},
        "b": {0: [1.5, 1.5], 1: [4.0, 3.5]},
    }
    unknown = regrets(searched, "minimize")
    assert unknown["a"][0].tolist() == [2.0, 0.0]
    assert unknown["b"][1].tolist() == [0.5, 0.0]
    most = regrets(searched, "maximize")  # the best are 4 of seed 0, 6 of seed 1
    assert most["a"][0].tolist() == [1.0, 1.0]
    assert most["a"][1].tolist() == [1.0, 0.0]
    assert most["b"][0].tolist() == [2.0, 0.0]
    assert regrets({"a": {0: records(1.0 - 1e-17)}}, "minimize", 1.0 + 1e-15)["a"][0].tolist() == [0.0]
    assert metrics(unknown) == {0: {"a/regret": 0.0, "b/regret": 1.0}, 1: {"a/regret": 1.0, "b/regret": 0.0}}


def test_the_table_holds_every_trial():
    searched = {"a": {0: records(3.0, None, 1.0)}}
    found = table(searched, regrets(searched, "minimize", 0.0))
    assert list(found.columns) == ["search", "seed", "trial", "x", "value", "regret"]
    assert found["trial"].tolist() == [1, 2, 3]
    assert found["regret"].tolist() == [3.0, 3.0, 1.0]
    assert math.isnan(found["value"][1])


ENDS = {
    "random": {0: 1.0, 1: 1.4, 2: 1.2},
    "good": {0: 0.10, 1: 0.13, 2: 0.11},
    "better": {0: 0.09, 1: 0.14, 2: 0.10},
    "like": {0: 0.9, 1: 1.6, 2: 1.0},
    "bad": {0: 2.1, 1: 2.5, 2: 2.2},
}


def test_who_is_told_apart_is_what_a_paired_t_test_tells():
    told = against(ENDS, "random")
    for label in ENDS.keys() - {"random"}:
        own, other = list(ENDS[label].values()), list(ENDS["random"].values())
        apart = ttest_rel(own, other).pvalue < 0.05
        assert (label in told.alike) != apart
        assert (label in told.lower) == (apart and np.mean(own) < np.mean(other))
    assert told == (("better", "good"), ("like",), ("bad",))
    assert against({"a": {0: 1.0}, "b": {0: 9.0}}, "a") == ((), ("b",), ())  # one seed tells nothing


def curves(ends: Any) -> Any:
    return {label: {s: np.array([9.0, value]) for s, value in of.items()} for label, of in ends.items()}


def test_sentences_say_who_is_best_and_who_is_not_told_apart():
    assert sentences("branin", curves(ENDS), "random") == (
        "Lowest mean regret on branin after 2 trials: better, 0.11 ± 0.066 (3 seeds; random: 1.2 ± 0.5).",
        "Not told from better within the 95 % interval of the difference: good.",
        "Lower than random, by more than that interval: better (11 times lower), good (11 times lower).",
        "Not told from random: like (about equal).",
        "Higher than random, by more than that interval: bad (1.9 times higher).",
    )
    few = {label: ENDS[label] for label in ("good", "bad")}
    assert sentences("it", curves(few), None) == (
        "Lowest mean regret on it after 2 trials: good, 0.113 ± 0.038 (3 seeds).",
    )
    single = {"a": {0: 0.0}, "b": {0: 2.0}}
    assert sentences("it", curves(single), "b") == (
        "Lowest mean regret on it after 2 trials: a, 0 (1 seed, so that nothing is told apart; b: 2).",
    )


@pytest.mark.parametrize(
    ("own", "other", "text"),
    [
        (0.5, 1.0, "2.0 times lower"),
        (3.0, 1.0, "3.0 times higher"),
        (0.001, 1.5, "1,500 times lower"),
        (1.0, 1.04, "about equal"),
        (1.0, 1.0, "equal"),
        (0.0, 1.0, "regret 0"),
        (0.25, 0.0, "0.25 against 0"),
    ],
)
def test_ratios(own: float, other: float, text: str):
    assert ratio(own, other) == text


def test_the_baseline_is_the_first_random_search():
    assert baseline(ENTRIES) == "luck"
    assert baseline({"grid": ENTRIES["grid"]}) is None


def test_the_curve_is_the_mean_and_student_s_interval():
    of = {0: np.array([math.nan, 4.0, 1.0]), 1: np.array([5.0, 2.0, 1.5]), 2: np.array([6.0, 3.0, 0.5])}
    middle, low, high = curve(of)
    assert np.isnan([middle[0], low[0], high[0]]).all()
    for place in (1, 2):
        values = [each[place] for each in of.values()]
        expected = student.interval(0.95, 2, np.mean(values), np.std(values, ddof=1) / math.sqrt(3))
        assert middle[place] == pytest.approx(np.mean(values))
        assert (low[place], high[place]) == pytest.approx(expected)
    assert curve({0: np.array([2.0, 1.0])}).tolist() == [[2.0, 1.0]] * 3


def test_a_panel_for_each_search_with_random_dashed():
    found = curves(ENDS)
    panels = plot_curves(found, "random", "regret", figures.LIGHT).axes
    titled = {axes.get_title(loc="left"): axes for axes in panels if axes.axison}
    assert list(titled) == list(ENDS)
    for label, axes in titled.items():
        [own] = [line for line in axes.lines if line.get_color() == figures.LIGHT.series[0]]
        np.testing.assert_allclose(own.get_xydata(), [(1, 9.0), (2, np.mean(list(ENDS[label].values())))])
        assert axes.get_yscale() == "log"
        assert len(axes.lines) == len(ENDS)
        dashed = [line for line in axes.lines if line.get_linestyle() != "-"]
        assert len(dashed) == (label != "random")


def test_the_ends_stand_in_order_and_zeros_at_the_edge():
    ends = {"b": {0: 0.5, 1: 0.7}, "a": {0: 0.0, 1: 0.2}}
    [axes] = plot_ends(curves(ends), "b", "regret", figures.DARK).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    dots = axes.lines[0].get_xydata()
    assert dots.tolist() == [[0.1, 0.0], [0.2, 0.0]]  # half of 0.2 stands for 0
    assert axes.get_xlabel() == "regret (0: at the left edge)"
    assert lower_edge([0.0, math.nan]) > 0


def faults(**entries: Any) -> tuple[str, ...]:
    with pytest.raises(DeclarationError) as caught:
        sampler_entries(entries, SHARED)
    return caught.value.faults


def test_entries_have_all_numbers_of_their_sampler():
    found = sampler_entries({"tree": {"method": "tpe", "candidates": 9}}, SHARED)
    assert found == {"tree": {"method": "tpe", "startup_trials": 10, "candidates": 9, "multivariate": True}}
    assert sampler_entries(found, SHARED) == found


def test_faults_of_entries_are_told_all_at_once():
    told = faults(
        a={"method": "tbe"},
        b={"method": "gp", "acquisition": "eu"},
        c={"method": "random", "trials": 3},
        d={"method": "grid", "points": {"x": 3, "y": 3}},
        e=3,
        f={"method": "tpe", "candidates": 0},
        **{"g h": {"method": "random"}},
    )
    assert [fault.split(":")[0] for fault in told] == [
        "a.method",
        "b.acquisition",
        "c.trials",
        "d",
        "e",
        "f.candidates",
        "g h",
    ]
    assert told[0].startswith("a.method: unknown name 'tbe'; did you mean 'tpe'?")
    assert told[2].startswith("c.trials: is no number of 'random' alone")
    assert told[3].startswith("d: has 9 combinations, but trials=12; leave trials out")
