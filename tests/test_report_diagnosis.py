"""What the report says of a diagnosis, and its pictures of layers."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from test_report import make_results, render

from mlml import diagnostics_file, figures, figures_layers
from mlml.diagnostics import Record

STEPS = [1, 26, 51, 76]


def record(share):
    """Two layers and an activation, of which a share is dead."""
    series = {"gradient_norm": 1.0, "activation_norm": 0.5, "update_ratio": 1e-3, "symmetric": 0.0}
    layers = {name: {key: [(s, value) for s in STEPS] for key, value in series.items()} for name in ("net.0", "net.2")}
    return Record(layers | {"net.1": {"dead": [(step, share) for step in STEPS]}}, {})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two encoders, one of them ill in one of two seeds; no other has a diagnosis."""
    folder = tmp_path_factory.mktemp("results")
    kept = [replace(r, curves=None, figures=(), search=None) for r in make_results(folder) if r.family != "search"]
    shares = {"simclr": {0: 0.1, 1: 0.2}, "rotation": {0: 0.1, 1: 0.9}}
    for name, by_seed in shares.items():
        diagnostics_file.write(folder / f"{name}.json", {seed: record(share) for seed, share in by_seed.items()})
    diagnostics_file.write(folder / "random.json", {0: Record({}, {})})
    return [replace(r, diagnostics=folder / f"{r.name}.json") if r.name in (*shares, "random") else r for r in kept]


def section(html, name):
    return re.search(rf'<section id="{name}">(.*?)</section>', html, flags=re.S).group(1)


def test_sentences_stand_on_top_and_lead_to_the_layers(results, tmp_path):
    html, page = render(results, tmp_path)
    said = section(html, "said")
    assert html.index('id="said"') < html.index('id="leaderboard"')
    assert said.count("<li>") == 1
    sentence = "seed 1: units are dead: 90 % of the units of net.1 are 0 for a whole batch"
    assert f'<a href="#diagnosis-pretext@rotation">rotation</a> {sentence}' in said
    assert 'No illness found in <a href="#diagnosis-pretext@simclr">simclr</a>.' in said
    assert {"#diagnosis-pretext@rotation", "#diagnosis-pretext@simclr", "#diagnosis"} <= set(page.hrefs)
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {href[1:] for href in page.hrefs if href.startswith("#")} <= anchors


def test_each_experiment_that_trained_has_its_layers(results, tmp_path):
    html, _ = render(results, tmp_path)
    shown = section(html, "diagnosis")
    assert re.findall(r'id="diagnosis-([^"]+)"', shown) == ["pretext@simclr", "pretext@rotation"]
    assert shown.count('alt="Layers of ') == 2
    assert "Layers over the steps, seed 0" in shown  # simclr's first
    assert "<details open><summary>Layers over the steps, seed 1" in shown  # the one that is ill
    assert "make it again: <code" in shown


def test_without_diagnoses_the_page_says_nothing_of_them(results, tmp_path):
    html, _ = render([replace(result, diagnostics=None) for result in results], tmp_path)
    assert 'id="said"' not in html
    assert 'id="diagnosis"' not in html
    assert "#diagnosis" not in html


def panels(figure):
    return {axes.get_title("left"): axes for axes in figure.axes if axes.get_title("left")}


def layers_of(share):
    return diagnostics_file.summarise({0: record(share)})["seeds"]["0"]["layers"]


def test_a_plot_has_a_row_for_each_layer_and_a_column_for_each_step():
    figure = figures_layers.layers_plot(STEPS, layers_of(0.25))
    found = panels(figure)
    assert list(found) == [panel.title for panel in figures_layers.PANELS]
    assert found["gradient norm"].images[0].get_array().shape == (2, 4)
    assert [label.get_text() for label in found["gradient norm"].get_yticklabels()] == ["net.0", "net.2"]
    assert [label.get_text() for label in found["activations, root mean square"].get_yticklabels()] == ["", ""]
    last = found["dead or saturated, share"]
    assert [label.get_text() for label in last.get_yticklabels()] == ["net.1"]
    np.testing.assert_allclose(last.images[0].get_array(), [[0.25] * 4])
    np.testing.assert_allclose(found["update / weights"].images[0].get_array(), np.full((2, 4), -3.0))
    assert [label.get_text() for label in last.get_xticklabels()] == ["1", "26", "51", "76"]


def test_zeros_have_the_lowest_colour_and_what_is_missing_none():
    layers = {"a": {"gradient_norm": [0.0, 1.0, None, 1e-3]}, "b": {"gradient_norm": [1e-20, 10.0, 1.0, 1.0]}}
    values = panels(figures_layers.layers_plot(STEPS, layers))["gradient norm"].images[0]
    assert values.get_clim() == (1.0 - figures_layers.DECADES, 1.0)
    assert values.get_array()[0, 0] == values.get_clim()[0] == values.get_array()[1, 0]
    assert values.get_array().mask.tolist() == [[False, False, True, False], [False] * 4]


def test_of_many_steps_the_first_and_the_last_are_shown():
    steps = list(range(1, 1001))
    layers = {"encoder." + "deep." * 12 + "last": {"gradient_norm": [float(step) for step in steps]}}
    axes = panels(figures_layers.layers_plot(steps, layers))["gradient norm"]
    shown = 10 ** axes.images[0].get_array()[0]
    assert len(shown) == figures_layers.MAX_COLUMNS
    np.testing.assert_allclose((shown[0], shown[-1]), (1, 1000))
    label = axes.get_yticklabels()[0].get_text()
    assert len(label) == figures_layers.MAX_NAME
    assert label.startswith("…")
    assert label.endswith("deep.last")


@pytest.mark.parametrize("theme", [figures.LIGHT, figures.DARK])
def test_the_same_measures_give_the_same_bytes(theme):
    first, again = (figures.svg(figures_layers.layers_plot(STEPS, layers_of(0.5), theme)) for _ in range(2))
    assert first == again
    assert theme.ink.encode() in first


def test_a_plot_of_a_large_network_stays_small():
    steps = list(range(1, 2001, 5))
    series = {"gradient_norm": [1.0] * 400, "activation_norm": [2.0] * 400, "update_ratio": [1e-3] * 400}
    layers = {f"encoder.trunk.layer{n}.conv": series for n in range(60)}
    assert len(figures.svg(figures_layers.layers_plot(steps, layers))) < 200_000


def test_a_plot_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one measured layer; got none"):
        figures_layers.layers_plot([1], {"a": {"symmetric": [0.0]}})


def test_the_file_is_read_as_it_was_written(tmp_path):
    diagnostics_file.write(tmp_path / "x.json", {0: record(0.9)})
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["seeds"]["0"]["steps"] == STEPS
    assert content["seeds"]["0"]["layers"]["net.1"]["dead"] == [0.9] * 4
