"""Evaluations on the page: generators by measures, each table of one extractor and one number of images."""

import numpy as np
import pytest
from test_report import experiment, render

from mlml import figures
from mlml.statistics import summarise


def quality(name, generator, numbers, label="classifier-1a2b3c", count=719, method="sample_quality", **parts):
    metrics = {f"test/{key}": summarise({0: value, 1: value + 0.01}) for key, value in numbers.items()}
    full = {f"{key}_{label}_n{count}": metrics[key] for key in ("test/fid",)}
    floor = {"floor/fid": summarise({0: 0.02, 1: 0.02})} | (
        {"floor/coverage": summarise({0: 0.97, 1: 0.97})} if "coverage" in numbers else {}
    )
    config = {"generator": generator, "extractor": label.rpartition("-")[0]}
    return experiment(name, "evaluation", method, config, metrics | full | floor, seeds=(0, 1), **parts)


@pytest.fixture
def results(tmp_path):
    figures.image_grid(np.full((4, 1, 8, 8), 0.5), 2, tmp_path / "seed_0_samples.png")
    numbers = {"fid": 1.5, "coverage": 0.5, "conditional_accuracy": 0.8}
    return [
        quality("vae_quality", "vae", {"fid": 2.0, "coverage": 0.6}, figures=[tmp_path / "seed_0_samples.png"]),
        quality("ddpm_quality", "ddpm", numbers),
        quality("narrow", "vae", {"fid": 0.3, "coverage": 0.6}, count=100),
        quality("again", "vae", {"mse": 0.01, "ssim": 0.9, "fid": 0.5}, method="reconstruction_quality"),
    ]


def test_a_table_holds_what_compares(results, tmp_path):
    _, page = render(results, tmp_path / "page")
    tables = [rows for classes, rows in page.tables if "evaluations" in classes]
    assert [len(rows) for rows in tables] == [1 + 2 + 2, 1 + 1 + 2, 1 + 1 + 2]  # heading, generators, floor
    heading, vae, ddpm, _, floor = [[cell["text"].strip() for cell in row] for row in tables[0]]
    assert heading == ["generator", "fid ↓", "coverage, % ↑", "conditional accuracy, % ↑"]
    assert vae[1].startswith("2.005")
    assert vae[3] == "–"
    assert ddpm[3].startswith("80.5")
    assert floor == ["train split", "0.02", "97.0", "–"]
    best = [[cell["best"] for cell in row] for row in tables[0][1:3]]
    assert best == [[False, False, True, False], [False, True, False, False]]  # one value alone is not best
    text = " ".join(page.text.split())
    assert "digits: sample quality" in text
    assert "extractor classifier-1a2b3c · 719 images of each kind" in text
    assert "extractor classifier-1a2b3c · 100 images of each kind" in text
    assert "digits: reconstruction quality" in text
    assert {result.run.url for result in results} <= set(page.hrefs)
    assert "make it again: dvc repro evaluation@vae_quality" in text


def texts(name, scale, agreement):
    numbers = {"text_agreement": agreement, "guidance_scale": scale}
    metrics = {f"test/{key}": summarise({0: value, 1: value}) for key, value in numbers.items()}
    metrics["test/text_agreement_tagger-1a2b3c_n500"] = metrics["test/text_agreement"]
    metrics["floor/text_agreement"] = summarise({0: 0.99, 1: 0.99})
    config = {"generator": "glide", "extractor": "tagger"}
    return experiment(name, "evaluation", "text_agreement", config, metrics, seeds=(0, 1))


def test_the_floor_of_texts_is_of_real_images_and_no_scale_is_better(tmp_path):
    _, page = render([texts("one", 2.0, 0.5), texts("other", 4.0, 0.75)], tmp_path / "page")
    (rows,) = [rows for classes, rows in page.tables if "evaluations" in classes]
    heading, one, _, _, floor = [[cell["text"].strip() for cell in row] for row in rows]
    assert heading == ["generator", "text agreement, % ↑", "guidance scale"]
    assert one[1].startswith("50.0")
    assert floor == ["real images", "99.0", "–"]
    best = [[cell["best"] for cell in row] for row in rows[1:3]]
    assert best == [[False, False, False], [False, True, False]]
    text = " ".join(page.text.split())
    assert "extractor tagger-1a2b3c · 500 images of each kind" in text


def test_their_pictures_are_theirs(results, tmp_path):
    html, page = render(results, tmp_path / "page")
    assert "#evaluations" in page.hrefs
    assert "#images" not in page.hrefs
    assert html.count("data:image/png") == 1


def test_a_page_without_them_has_no_section(tmp_path):
    html, page = render([], tmp_path)
    assert "#evaluations" not in page.hrefs
    assert 'id="evaluations"' not in html


def test_a_generator_that_misses_much_is_told_of(results, tmp_path):
    healthy = render(results, tmp_path / "healthy")[1]
    assert "mode collapse" not in healthy.text
    results.append(quality("gan_quality", "gan", {"fid": 3.0, "coverage": 0.1, "class_distance": 0.7}))
    said = " ".join(render(results, tmp_path / "ill")[1].text.split())
    assert "gan_quality: mode collapse: samples are near 10.5 % of the real images" in said
    assert "gan_quality: mode collapse: 70.5 % of the samples are of other classes" in said
