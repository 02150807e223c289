"""Samplers on an experiment: trials are trainings with the drawn values, and a killed study goes on."""

from pathlib import Path

import pandas as pd
import pytest
from test_learning_curve import CPU, ENTRY, train

from mlml.config import DeclarationError, overridden, parse
from mlml.declaration import resolve
from mlml.search._study import SearchError, run_study
from mlml.search.tpe import TPE
from mlml.studies._subject import Subject
from mlml.studies.search_regret import SearchRegret

RATE = "train.optimizer.learning_rate"
NUMBERS = {
    "experiment": "blob",
    "space": {RATE: {"type": "float", "low": 0.0001, "high": 0.1, "log": True}},
    "trials": 4,
    "searches": {"grid": {"method": "grid", "points": {RATE: 4}}, "luck": {"method": "random"}},
}


def subject(data, folder: Path, seeds=(0, 1), limit=None):
    """A classifier of blobs, and what its trainings were asked for."""
    experiment = resolve("supervised", "blob", ENTRY)
    asked = []

    class Killed(BaseException):
        pass

    def otherwise(overrides, seed, place):
        if len(asked) == limit:
            raise Killed
        asked.append((overrides, seed))
        other = resolve("supervised", "blob", overridden(ENTRY, overrides))
        return train(other, data, seed, place)[1]

    def nothing(*_):
        raise AssertionError("the study trains otherwise alone")

    made = Subject("blob", experiment.config, "labels", seeds, data, CPU, nothing, nothing, nothing, otherwise, folder)
    return made, asked, Killed


def study(**changed):
    return SearchRegret(SearchRegret.Config.model_validate({**NUMBERS, **changed}))


def test_regret_is_that_of_the_trainings(blob_data, tmp_path):
    made, asked, _ = subject(blob_data, tmp_path / "study")
    found = study().study(made)
    assert len(asked) == 2 * 2 * 4
    rates = [1e-4, 1e-3, 1e-2, 1e-1]
    losses = {}
    for seed in (0, 1):
        for rate in rates:
            experiment = resolve("supervised", "blob", overridden(ENTRY, {RATE: rate}))
            losses[seed, rate] = train(experiment, blob_data, seed, tmp_path / f"{seed}_{rate}")[1]["validation/loss"]
    rows = found.table[found.table["search"] == "grid"]
    assert rows[RATE].tolist() == pytest.approx(rates * 2)
    assert rows["value"].tolist() == pytest.approx(list(losses.values()), rel=1e-6)
    for seed in (0, 1):
        own = found.table[found.table["seed"] == seed]
        best = own["value"].min()
        for label in ("grid", "luck"):
            lowest = own[own["search"] == label]["value"].min()
            assert found.metrics[seed][f"{label}/regret"] == pytest.approx(lowest - best)
        assert min(found.metrics[seed].values()) == 0
    assert "validation/loss of blob after 4 trials" in found.sentences[0]


def test_an_accuracy_is_maximised(blob_data, tmp_path):
    """By the searches as by the regret: the tree's trials are those of a search that maximises."""
    made, _, _ = subject(blob_data, tmp_path / "study", seeds=(0,))
    searches = {"luck": {"method": "random"}, "tree": {"method": "tpe", "startup_trials": 2}}
    upwards = {"metric": "validation/accuracy", "direction": "maximize"}
    found = study(**upwards, trials=6, searches=searches).study(made)
    best = found.table["value"].max()
    for label in searches:
        highest = found.table[found.table["search"] == label]["value"].max()
        assert found.metrics[0][f"{label}/regret"] == pytest.approx(best - highest)
    rows = found.table[found.table["search"] == "tree"]
    values = dict(zip(rows[RATE], rows["value"], strict=True))
    shared = {"experiment": "blob", "objective": "blob", "space": NUMBERS["space"], "trials": 6, "pruner": "none"}
    tree = TPE(TPE.Config(**shared, **upwards, startup_trials=2))
    alone = run_study(tree.config, tree.sampler, tmp_path / "alone", lambda drawn, *_: values[drawn[RATE]], 0)
    assert [record.parameters[RATE] for record in alone] == rows[RATE].tolist()


def test_a_killed_study_ends_as_if_it_had_not_been(blob_data, tmp_path):
    whole = study().study(subject(blob_data, tmp_path / "whole")[0])
    made, _, killed = subject(blob_data, tmp_path / "parts", limit=7)
    with pytest.raises(killed):
        study().study(made)
    made, asked, _ = subject(blob_data, tmp_path / "parts")
    again = study().study(made)
    assert len(asked) == 2 * 2 * 4 - 7
    assert again.metrics == whole.metrics
    pd.testing.assert_frame_equal(again.table, whole.table)


def test_a_metric_that_is_not_measured_ends_the_study(blob_data, tmp_path):
    made, _, _ = subject(blob_data, tmp_path / "study", seeds=(0,))
    with pytest.raises(SearchError, match="'blob' has no 'validation/likelihood'; it has validation/loss"):
        study(metric="validation/likelihood").study(made)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"metric": "test/loss"}, "study.s.metric: must be a metric of the validation split"),
        ({"space": {}}, "study.s.space: must name at least one value"),
        ({"searches": {}}, "study.s.searches: must "),
        ({"searches": {"a": {"method": "gpp"}}}, "study.s.searches.a.method: unknown name 'gpp'; did you mean 'gp'?"),
        ({"searches": {"a": {"method": "gp", "beta": 0}}}, "study.s.searches.a.beta: must be greater than 0; got 0"),
        ({"trials": 5}, "study.s.searches.grid: has 4 combinations, but trials=5; leave trials out"),
    ],
)
def test_a_fault_is_one_sentence_with_its_path(changed, sentence):
    with pytest.raises(DeclarationError) as caught:
        parse(SearchRegret.Config, {**NUMBERS, **changed}, "study.s")
    [fault] = caught.value.faults
    assert fault.startswith(sentence)
