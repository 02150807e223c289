"""What searches found, on the page: the values, the seeds, and the comparison against SciPy's paired interval."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_report import COMMIT, experiment, render, write_curves

from mlml.config import SearchedEntry
from mlml.report import RunLink
from mlml.statistics import summarise

RATE = "train.optimizer.learning_rate"
DEFAULT = {0: 0.910, 1: 0.902, 2: 0.905, 3: 0.911}
FOUND = {1: 0.955, 2: 0.941, 3: 0.968}
LINEAR = {"encoder": "simclr", "train": {"epochs": 20}}
ACCURACY, ON_TEST = "validation/accuracy", "test/accuracy"


def config(rate, **optimizer):
    return {
        "encoder": {"network": "cnn"},
        "temperature": 0.5,
        "train": {"optimizer": {"learning_rate": rate, **optimizer}},
    }


def scores(values, shift=0.0):
    return summarise({seed: value + shift for seed, value in values.items()})


@pytest.fixture
def parts(tmp_path):
    """An encoder, the same with what a search found, and the search, which the encoder itself judged."""
    generator = np.random.default_rng(3)
    losses = ["train/loss", "validation/loss"]
    curves = {
        name: write_curves(tmp_path / f"{name}.csv", generator, losses, seeds)
        for name, seeds in (("simclr", tuple(DEFAULT)), ("best", tuple(FOUND)))
    }
    space = {RATE: {}, "train.optimizer.momentum": {}, "train.optimizer.beta": {}, "temperature": {}}
    chosen = {"experiment": "simclr", "objective": "simclr", "metric": "validation/loss", "direction": "minimize"}
    entry = SearchedEntry(experiment="simclr", from_search="rates", dataset="digits", seeds=tuple(FOUND))
    loss = {
        name: {seed: 1 - value for seed, value in values.items()} for name, values in (("d", DEFAULT), ("f", FOUND))
    }
    made = [
        experiment(
            *("simclr", "pretext", "simclr", config(0.00312345, beta=0.9), {"validation/loss": scores(loss["d"])}),
            seeds=tuple(DEFAULT),
            curves=curves["simclr"],
        ),
        experiment(
            *("best", "pretext", "simclr", config(0.025, momentum=0.5), {"validation/loss": scores(loss["f"])}),
            seeds=tuple(FOUND),
            curves=curves["best"],
            searched=entry,
        ),
        experiment(
            "rates", "search", "tpe", {**chosen, "space": space}, {"validation/loss": scores({0: 0.1})}, seeds=(0,)
        ),
    ]
    return {result.name: result for result in made}


def judged(parts, *probes):
    """The same, but that the first of some probes judged the search."""
    search = parts["rates"]
    told = {**search.config, "objective": probes[0].name, "metric": ACCURACY, "direction": "maximize"}
    return [parts["simclr"], parts["best"], replace(search, config=told), *probes]


def probe(name, values, method="linear", dataset="digits", **numbers):
    metrics = {ACCURACY: scores(values, 0.01), ON_TEST: scores(values)}
    return experiment(name, "probe", method, {**LINEAR, **numbers}, metrics, dataset=dataset, seeds=tuple(values))


def words(page):
    return " ".join(page.text.split())


def table(page, name):
    return [[cell["text"].strip() for cell in row] for row in page.table(name)]


def test_the_values_that_ran_stand_beside_the_declared_ones(parts, tmp_path):
    """One that the found entry has not is not shown; one that only the declared entry lacks has a dash there."""
    _, page = render(list(parts.values()), tmp_path)
    assert table(page, "found") == [
        ["varied", "simclr", "best"],
        [RATE, "0.003123", "0.025"],
        ["train.optimizer.momentum", "–", "0.5"],
        ["temperature", "0.5", "0.5"],
    ]
    assert "simclr, with what rates found · validation/loss" in words(page)
    said = "The search saw the seed 0 alone; what stands here is of the seeds 1, 2 and 3, which it never saw."
    assert said in words(page)


def test_the_two_are_compared_by_the_seeds_that_both_have_and_the_search_had_not(parts, tmp_path):
    _, page = render(list(parts.values()), tmp_path)
    common = [1, 2, 3]
    default, found = ([1 - values[seed] for seed in common] for values in (DEFAULT, FOUND))
    gap = stats.ttest_rel(default, found).confidence_interval(0.95)
    header, best, other = table(page, "compared")
    assert header[0] == "experiment"
    assert best[:3] == ["best", f"{np.mean(found):.4g} ± {stats.t.ppf(0.975, 2) * stats.sem(found):.2g}", "3"]
    assert other[0] == "simclr"
    assert other[2:5] == ["3", f"{np.mean(default) - np.mean(found):+.3g}", f"[{gap.low:.3g}, {gap.high:.3g}]"]
    assert "best is best: validation/loss" in words(page)
    # what the search chose by is the validation split, of which a pretext has nothing else
    assert "There is no test/loss to compare by." in words(page)


def test_the_curves_are_of_these_seeds(parts, tmp_path):
    whole = render(list(parts.values()), tmp_path / "whole")[0]
    frame = pd.read_csv(parts["simclr"].curves)
    frame.loc[frame["seed"] == 0, "validation/loss"] += 100
    frame.to_csv(tmp_path / "other.csv", index=False)
    other = replace(parts["simclr"], curves=tmp_path / "other.csv")
    changed = render([other, parts["best"], parts["rates"]], tmp_path / "changed")[0]

    def section(html):
        return html[html.index('<section id="searched">') : html.index('<section id="curves">')]

    assert section(whole) == section(changed)
    assert whole != changed


def test_test_is_what_counts_where_it_is_measured(parts, tmp_path):
    results = []
    for name, values in (("simclr", DEFAULT), ("best", FOUND)):
        losses = {f"{split}/loss": scores(values, shift) for split, shift in (("validation", 0.0), ("test", 0.5))}
        results.append(replace(parts[name], metrics=losses))
    _, page = render([*results, parts["rates"]], tmp_path)
    assert "simclr is best: test/loss 1.406" in words(page)  # less is better of a loss
    assert "There is no" not in words(page)


def test_further_objectives_are_compared_after_the_metric(parts, tmp_path):
    """Each in its own direction; what is a trial's alone, as its cost, is not there to compare."""
    further = {"validation/accuracy": "maximize", "cost/parameters": "minimize"}
    search = replace(parts["rates"], config={**parts["rates"].config, "further_objectives": further})
    results = []
    for name, values in (("simclr", DEFAULT), ("best", FOUND)):
        loss = {"validation/loss": scores({seed: 1 - value for seed, value in values.items()})}
        worse = {seed: value - (name == "best") / 2 for seed, value in values.items()}
        results.append(replace(parts[name], metrics=loss | {ON_TEST: scores(worse)}))
    _, page = render([*results, search], tmp_path)
    tables = [rows for classes, rows in page.tables if "compared" in classes]
    assert [[row[0]["text"].strip() for row in rows] for rows in tables] == [
        ["experiment", "best", "simclr"],
        ["experiment", "simclr", "best"],
    ]
    assert "simclr, with what rates found · validation/loss, test/accuracy" in words(page)
    assert "There is no test/loss to compare by." in words(page)
    assert "no test/accuracy" not in words(page)


def test_what_judged_the_search_judges_what_it_found(parts, tmp_path):
    """The probe that has the searched experiment, and the numbers of the one that judged."""
    probes = [
        probe("judge", DEFAULT),
        probe("shorter", FOUND, encoder="best", train={"epochs": 2}),
        probe("elsewhere", FOUND, dataset="shapes", encoder="best"),
        probe("other", FOUND, method="knn", encoder="best"),
        probe("mine", FOUND, encoder="best"),
    ]
    _, page = render(judged(parts, *probes), tmp_path)
    header, best, default = table(page, "compared")
    assert (best[0], default[0]) == ("mine", "judge")
    assert header[1] == "test/accuracy, %"
    half = 100 * stats.t.ppf(0.975, 2) * stats.sem(list(FOUND.values()))
    assert best[1] == f"{100 * np.mean(list(FOUND.values())):.1f} ± {half:.1f}"


def test_without_such_a_probe_the_page_says_what_to_declare(parts, tmp_path):
    short = probe("shorter", FOUND, encoder="best", train={"epochs": 2})
    _, page = render(judged(parts, probe("judge", DEFAULT), short), tmp_path)
    assert not [rows for classes, rows in page.tables if "compared" in classes]
    said = (
        "The search was judged by judge. To compare, declare in probe an entry with the same numbers whose encoder is"
    )
    assert f"{said} best." in words(page)
    assert table(page, "found")[1] == [RATE, "0.003123", "0.025"]


def test_the_sentence_names_the_seeds_that_are_compared(parts, tmp_path):
    fewer = probe("mine", {seed: FOUND[seed] for seed in (1, 3)}, encoder="best")
    _, page = render(judged(parts, probe("judge", DEFAULT), fewer), tmp_path)
    assert [row[2] for row in table(page, "compared")[1:]] == ["2", "2"]
    said = "The search saw the seed 0 alone; what stands here is of the seeds 1 and 3, which it never saw."
    assert said in words(page)


def test_a_probe_that_has_no_seed_in_common_compares_nothing(parts, tmp_path):
    """Nor with one that the search had: of 0 and 1, only 0 is common here, and that was searched with."""
    judge, mine = probe("judge", {0: 0.9}), probe("mine", FOUND, encoder="best")
    _, page = render(judged(parts, judge, mine), tmp_path)
    assert "judge and mine have no seed and no metric in common with which to compare them." in words(page)
    mine = probe("mine", {0: 0.95, 2: 0.9}, encoder="best")
    _, page = render(judged(parts, judge, mine), tmp_path)
    assert "judge and mine have no seed and no metric in common" in words(page)


def test_it_is_an_encoder_as_any_other_on_the_page(parts, tmp_path):
    linked = replace(parts["best"], stage="searched@best", run=RunLink("abcd", None, COMMIT, False))
    _, page = render([parts["simclr"], linked, parts["rates"], probe("mine", FOUND, encoder="best")], tmp_path)
    row = pd.read_csv(tmp_path / "leaderboard.csv").iloc[0]
    assert (row["encoder"], row["family"], row["method"]) == ("best", "pretext", "simclr")
    assert "pretext · with what rates found · simclr" in words(page)


def test_without_one_there_is_no_section(parts, tmp_path):
    html, _ = render([parts["simclr"], parts["rates"]], tmp_path)
    assert "Found by search" not in html
