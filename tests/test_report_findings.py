"""Studies and illustrations on the page: their sentences, their pictures for both themes, their way back."""

import base64

import numpy as np
import pytest
from test_report import experiment, render

from mlml import figures
from mlml.statistics import summarise


@pytest.fixture
def results(tmp_path):
    drawn = []
    for number, name in enumerate(("loss_on_a_line", "loss_on_a_line_dark")):
        figures.image_grid(np.full((1, 1, 8, 8), number / 2), 1, tmp_path / f"{name}.png")
        drawn.append(tmp_path / f"{name}.png")
    study = experiment(
        "around",
        "study",
        "loss_landscape",
        {"experiment": "mlp"},
        {"landscape/centre/loss": summarise({0: 0.25})},
        seeds=(0,),
        figures=drawn,
        sentences=("mlp: the loss is <0.25>.", "It is convex."),
    )
    wave = experiment("wave", "illustration", "schedule_curves", {}, {}, dataset="", seeds=(), sentences=("A wave.",))
    return [study, wave]


def test_their_sentences_pictures_and_origins_are_shown(results, tmp_path):
    html, page = render(results, tmp_path / "page")
    assert "<li>mlp: the loss is &lt;0.25&gt;.</li>" in html
    assert all(sentence in page.text for result in results for sentence in result.sentences)
    light, dark = (base64.b64encode(path.read_bytes()).decode() for path in results[0].figures)
    assert f'srcset="data:image/png;base64,{dark}"' in html
    assert f'src="data:image/png;base64,{light}"' in html
    assert "loss landscape of mlp · digits · 1 seed" in " ".join(page.text.split())
    assert {result.run.url for result in results} <= set(page.hrefs)
    assert "make it again: dvc repro illustration@wave" in " ".join(page.text.split())


def test_they_are_no_generated_images(results, tmp_path):
    html, page = render(results, tmp_path / "page")
    assert "#images" not in page.hrefs
    assert html.count("data:image/png") == 2


def test_a_page_without_them_has_no_section(tmp_path):
    html, page = render([], tmp_path)
    assert "#findings" not in page.hrefs
    assert 'id="findings"' not in html
