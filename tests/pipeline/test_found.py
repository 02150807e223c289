"""What a search found flows on through real `dvc repro`, up to the page.

The tests of this module stand on each other, in their order: they share one project.
"""

import csv
import json

import pytest
from project import declaration
from ruamel.yaml import YAML

FOUND = declaration(
    "steps: 12, batch_size: 64, log_every: 4, evaluate_every: 6, checkpoint_every: 5",
    """
supervised:
  classifier:
    {method: classifier, dataset: digits, encoder: *encoder, train: *train, seeds: [0, 1, 2], augment: {padding: 0}}
pretext: {}
probe:
  best_knn: {method: knn, dataset: digits, encoder: classifier_best, seeds: [1, 2]}
generative: {}
searched:
  classifier_best: {experiment: classifier, from_search: rate, dataset: digits, seeds: [1, 2]}
study:
  more:
    {method: learning_curve, experiment: classifier_best, dataset: digits, fractions: [0.5, 1.0], seeds: [1]}
report: {title: Found}
""",
    trials=3,
)
BEST = "reports/search/rate/best.yaml"


def load(project, path):
    return json.loads((project.folder / path).read_text())


@pytest.fixture(scope="module")
def made(project):
    project.declare(FOUND)
    project.run("git", "commit", "-qam", "Declare what a search found")
    with project.warm():
        project.run("mlml", "repro", "searched")
    return project


def test_it_waits_for_the_search_and_the_experiment(made):
    before = {"check", "prepare@digits", "supervised@classifier", "search@rate"}
    assert set(made.lock()) == {*before, "searched@classifier_best"}
    deps = {dep["path"] for dep in made.lock()["searched@classifier_best"]["deps"]}
    assert {BEST, "models/classifier"} <= deps
    assert "reports/search/rate" not in deps
    overrides = YAML(typ="safe").load(made.folder / BEST)["overrides"]
    for seed in (1, 2):
        told = load(made, f"models/classifier_best/seed_{seed}/model.json")
        assert (told["family"], told["method"]) == ("supervised", "classifier")
        rate = told["config"]["train"]["optimizer"]["learning_rate"]
        assert rate == overrides["train"]["optimizer"]["learning_rate"]
        declared = load(made, f"models/classifier/seed_{seed}/model.json")["config"]
        assert declared["train"]["optimizer"]["learning_rate"] != rate
    assert not (made.folder / "models/classifier_best/seed_0").exists()


def test_what_names_it_and_the_page_have_it(made):
    with made.warm():
        ran = made.repro()
    assert set(ran) == {"probe@best_knn", "study@more", "report"}
    own = load(made, "reports/metrics/classifier_best.json")["validation/accuracy"]
    # the whole of the train split is the experiment itself: the study trained with the numbers that were found
    assert load(made, "reports/metrics/more.json")["fraction_1/validation/accuracy"]["seed_1"] == own["seed_1"]
    [row] = csv.DictReader((made.folder / "reports/leaderboard.csv").open())
    assert (row["encoder"], row["family"], row["method"]) == ("classifier_best", "supervised", "classifier")
    page = (made.folder / "reports/index.html").read_text()
    assert "The search saw the seed 0 alone; what stands here is of the seeds 1 and 2, which it never saw." in page
    assert '<details id="searched@classifier_best">' in page
    assert made.repro() == []


def test_the_chain_of_a_number_leads_through_the_search(made):
    told = made.run("mlml", "why", "reports/metrics/classifier_best.json:test/accuracy")
    assert BEST in told
    assert {"searched@classifier_best", "search@rate", "supervised@classifier", "prepare@digits"} <= set(told.split())


def test_other_pictures_of_the_search_train_nothing_again(made):
    made.edit("mlml/search/_figures.py", 'axes.set_xlabel("trial")', 'axes.set_xlabel("number of the trial")')
    with made.warm():
        ran = set(made.repro())
    assert {"search@rate", "report"} <= ran
    assert not {"supervised@classifier", "searched@classifier_best", "probe@best_knn"} & ran


def test_another_find_is_trained(made):
    made.edit("params.yaml", "low: 0.001, high: 0.1", "low: 0.002, high: 0.2")
    with made.warm():
        ran = set(made.repro())
    assert ran == {"check", "search@rate", "searched@classifier_best", "probe@best_knn", "study@more", "report"}
