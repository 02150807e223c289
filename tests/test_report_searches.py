"""Searches on the page: every picture that they left, in order, their sentences and their front."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from test_report import experiment, render

from mlml.config import SearchConfig, parse
from mlml.report import Result
from mlml.search._outputs import write_outputs
from mlml.search._study import Record
from mlml.statistics import summarise

RATE = {"train.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}}
WIDTH = {"encoder.width": {"type": "int", "low": 8, "high": 64, "step": 8}}
KINDS = ["history", "importance", "front", "posterior", "slices", "contour", "parallel"]
COST = {"further_objectives": {"cost/parameters": "minimize"}, "pruner": "none"}


def searched(name: str, folder: Path, space: dict, count: int = 12, **more) -> Result:
    """A search as its stage leaves it: the pictures in a folder of their own."""
    config = parse(SearchConfig, {"experiment": "mlp", "objective": "mlp", "space": space, **more}, "search.s")
    generator = np.random.default_rng(0)
    records = []
    for number in range(count):
        drawn = {path: dimension.at(float(generator.random())) for path, dimension in config.space.items()}
        value = (np.log10(drawn["train.learning_rate"]) + 2.4) ** 2 + 0.2
        further = {metric: float(100 - number) for metric in config.further_objectives}
        records.append(Record(number, "complete", float(value), drawn, {}, None, further))
    write_outputs(config, records, folder / "search" / name)
    pictures = folder / "figures" / name
    pictures.mkdir(parents=True)
    figures = [path.rename(pictures / path.name) for path in sorted((folder / "search" / name).glob("*.png"))]
    metrics = {"validation/loss": summarise({0: 0.2})}
    parts = {"seeds": (0,), "search": folder / "search" / name, "figures": figures}
    return experiment(name, "search", "tpe", {"experiment": "mlp"}, metrics, **parts)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searches")
    return [searched("rate", folder, RATE), searched("traded", folder, {**RATE, **WIDTH}, **COST)]


@pytest.fixture(scope="module")
def rendered(results, tmp_path_factory):
    return render(results, tmp_path_factory.mktemp("page"))


def test_all_pictures_of_a_search_are_shown_in_order(results, rendered):
    html, page = rendered
    for result in results:
        shown = [a["alt"] for tag, a in page.elements if tag == "img" and a["alt"].startswith(f"{result.name}: ")]
        kinds = {path.stem for path in result.figures}
        assert shown == [f"{result.name}: {kind}" for kind in KINDS if kind in kinds]
        assert len(shown) == len(kinds)
        assert all(base64.b64encode(path.read_bytes()).decode() in html for path in result.figures)
    assert {path.stem for result in results for path in result.figures} == set(KINDS)


def test_each_picture_is_told_and_wide_ones_have_a_line_of_their_own(rendered):
    html, page = rendered
    text = " ".join(page.text.split())
    assert "slices: the metric against each dimension; the darker, the later" in text
    assert "parallel: each trial as a line; the darker, the better" in text
    assert html.count('<figure class="wide">') == 1  # the posterior: all others are narrower


def test_the_sentences_of_a_search_are_shown(results, rendered):
    page = rendered[1]
    for result in results:
        said = json.loads((result.search / "sentences.json").read_text())
        assert said
        assert all(sentence in page.text for sentence in said)


def test_the_front_has_a_row_for_each_of_its_trials_and_is_no_best_parameter(results, rendered):
    page = rendered[1]
    (rows,) = [rows for classes, rows in page.tables if "front" in classes]
    assert [cell["text"] for cell in rows[0]] == [
        "trial", "validation/loss", "cost/parameters", "train.learning_rate", "encoder.width"
    ]  # fmt: skip
    costs = [float(row[2]["text"]) for row in rows[1:]]
    assert costs == [100 - int(row[0]["text"]) for row in rows[1:]]
    assert len(rows) > 2
    assert float(rows[1][1]["text"]) == min(float(row[1]["text"]) for row in rows[1:])
    best = [
        [cell["text"] for cell in row] for classes, rows in page.tables if "best-parameters" in classes for row in rows
    ]
    assert ["experiment", "mlp"] in best
    assert not any(row[0] == "front" for row in best)
