import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlml import figures
from mlml.report import Result, RunLink, leaderboard, write_report
from mlml.statistics import summarise

SEEDS = (0, 1, 2)
COMMIT = "9f3c2a7b1d4e5f60718293a4b5c6d7e8f9012345"
ENCODERS = {
    "simclr": ("pretext", "simclr", 0.941),
    "rotation": ("pretext", "rotation", 0.872),
    "random": ("pretext", "random", 0.748),
    "classifier": ("supervised", "classifier", 0.973),
}
PROBES = {"linear": 0.0, "knn": -0.021}
CNN = {"network": "cnn", "width": 32, "depth": 3}
TRAIN = {"epochs": 20, "batch_size": 256, "optimizer": {"name": "adamw", "learning_rate": 0.001}}


def run_link(name):
    key = base64.b16encode(name.encode()).decode().lower().ljust(24, "0")[-16:]
    return RunLink(key, f"../.mlml/runs.html#{key}", COMMIT, dirty=False)


def scores(center, generator, seeds=SEEDS, spread=0.006):
    return summarise({seed: float(center + spread * generator.standard_normal()) for seed in seeds})


def write_curves(path, generator, names, seeds=SEEDS):
    rows = []
    for seed in seeds:
        for step in range(50, 1050, 50):
            decay = np.exp(-step / 300) + 0.04 * generator.standard_normal()
            decays = {name: decay + 0.1 * name.startswith("validation") for name in names}
            values = {name: 1 - 0.8 * d if "accuracy" in name else 0.3 + 2 * d for name, d in decays.items()}
            rows.append({"step": step, "seed": seed, **values})
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def experiment(name, family, method, config, metrics, dataset="digits", seeds=SEEDS, **parts):
    address = f"{family}@{name}"
    resolved = {"method": method, "dataset": dataset, "seeds": list(seeds), **config}
    result = Result(name, family, method, dataset, seeds, resolved, address, f"dvc repro {address}", metrics)
    return replace(result, run=run_link(name), **parts)


def encoder(name, folder, generator):
    family, method, center = ENCODERS[name]
    metrics, curves = {}, None
    if method != "random":
        metrics["validation/loss"] = scores(0.41, generator)
        curves = write_curves(folder / f"curves/{name}.csv", generator, ["train/loss", "validation/loss"])
    if method == "classifier":
        names = ["train/loss", "validation/loss", "train/accuracy", "validation/accuracy"]
        curves = write_curves(folder / f"curves/{name}.csv", generator, names)
        metrics |= {"test/accuracy": scores(center, generator), "test/loss": scores(0.09, generator)}
    return experiment(name, family, method, {"encoder": CNN, "train": TRAIN}, metrics, curves=curves)


def vae(folder, generator, images):
    for seed in SEEDS:
        at, images = folder / "figures/vae", np.roll(images, seed, axis=0)
        figures.image_grid(images[:32], 8, at / f"seed_{seed}_samples.png")
        figures.pairs_grid(images[:16], images[:16] * 0.8, 8, at / f"seed_{seed}_reconstructions.png")
        weights = np.linspace(0, 1, 10)[:, None, None, None]
        rows = np.stack([(1 - weights) * images[k] + weights * images[k + 4] for k in range(4)])
        figures.rows_grid(rows, at / f"seed_{seed}_interpolation.png")
    names = ["train/loss", "validation/loss", "validation/reconstruction", "validation/kl"]
    curves = write_curves(folder / "curves/vae.csv", generator, names)
    metrics = {"test/loss": scores(24.31, generator, spread=0.2), "test/kl": scores(9.1, generator, spread=0.1)}
    config = {"encoder": CNN, "latent_dim": 16, "beta": 1.0, "train": TRAIN}
    return experiment("vae", "generative", "vae", config, metrics, curves=curves, figures=sorted(at.glob("*.png")))


def search(folder, generator):
    at = folder / "search/simclr_search"
    at.mkdir(parents=True)
    (at / "best.yaml").write_text(
        "number: 3\nvalue: 0.361\nparams:\n  temperature: 0.23\n  train.optimizer.name: lars\n"
    )
    (at / "sentences.json").write_text('["It has converged."]')
    values = 0.36 + 0.4 * generator.random(12)
    trials = {"number": range(12), "state": "COMPLETE", "value": values, "temperature": generator.random(12)}
    pd.DataFrame(trials).to_csv(at / "trials.csv", index=False)
    for picture in (at / "history.png", at / "importance.png"):
        frame = pd.DataFrame({"step": range(12), "seed": 0, f"best/{picture.stem}": np.minimum.accumulate(values)})
        figures.write_png(figures.curves(frame), picture)
    config = {"experiment": "simclr", "space": {"temperature": {"low": 0.05, "high": 1.0, "log": True}}}
    metrics = {"best/value": summarise({0: 0.361})}
    return experiment("simclr_search", "search", "bayesian", config, metrics, seeds=(0,), search=at)


def make_results(folder, images=None):
    """4 encoders under 2 probes with 3 seeds, a VAE and a search, with all their files."""
    generator = np.random.default_rng(7)
    images = generator.random((40, 1, 8, 8)) if images is None else images
    probes = [
        experiment(
            f"{name}_{probe}",
            "probe",
            probe,
            {"encoder": name, **({"train": {"epochs": 20}} if probe == "linear" else {"k": 20})},
            {"test/accuracy": scores(center + shift, generator), "validation/accuracy": scores(center, generator)},
        )
        for name, (_, _, center) in ENCODERS.items()
        for probe, shift in PROBES.items()
    ]
    encoders = [encoder(name, folder, generator) for name in ENCODERS]
    return [*encoders, *probes, vae(folder, generator, images), search(folder, generator)]


class Page(HTMLParser):
    """Tables as rows of cells (text, hrefs), every attribute that can load something, and all text."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.loads, self.hrefs, self.text, self.elements = [], [], [], "", []
        self.linked = []  # (text, href) of each element of class "value"
        self._open_cell, self._href, self._value, self._skip = None, None, None, False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        classes = (attributes.get("class") or "").split()
        self.elements.append((tag, attributes))
        self.loads += [attributes[key] for key in ("src", "srcset", "data", "action", "poster") if key in attributes]
        if tag == "link":
            self.loads.append(attributes["href"])
        if tag == "style":
            self._skip = True
        if tag == "table":
            self.tables.append((classes, []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self._open_cell = {"text": "", "hrefs": [], "titles": [], "best": False}
            self.tables[-1][1][-1].append(self._open_cell)
        elif tag == "a":
            self._href = attributes["href"]
            self.hrefs.append(self._href)
        if self._open_cell is not None:
            self._open_cell["best"] |= "best" in classes
            self._open_cell["hrefs"] += [attributes["href"]] if tag == "a" else []
            self._open_cell["titles"] += [attributes["title"]] if "title" in attributes else []
        if "value" in classes:
            self.linked.append(["", self._href])
            self._value = 0
        elif self._value is not None and tag == "span":
            self._value += 1

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._open_cell = None
        elif tag == "a":
            self._href = None
        elif tag == "style":
            self._skip = False
        elif tag == "span" and self._value is not None:
            self._value = None if self._value == 0 else self._value - 1

    def handle_data(self, data):
        if self._skip:
            return
        self.text += data
        if self._open_cell is not None:
            self._open_cell["text"] += data
        if self._value is not None:
            self.linked[-1][0] += data

    def table(self, name):
        return next(rows for classes, rows in self.tables if name in classes)


PROVENANCE = {"commit": COMMIT, "dirty": "false", "torch": "2.11.0", "device": "cpu, 2 threads"}


def render(results, folder, title="Digits", comparisons=(), **provenance):
    write_report(results, title, folder, {**PROVENANCE, **provenance}, comparisons)
    html = (folder / "index.html").read_text()
    return html, Page(html)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def rendered(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    html, page = render(results, folder)
    return html, page, folder


def probes_only(results, **changes):
    """The encoders and probes without curves: quick to render."""
    kept = [result for result in results if result.family in ("pretext", "supervised", "probe")]
    return [replace(result, curves=None, **changes) for result in kept]


def test_leaderboard_numbers_are_the_metrics_and_link_to_their_runs(results, rendered):
    rows = rendered[1].table("leaderboard")
    header = [cell["text"] for cell in rows[0]]
    assert header == ["encoder", "linear", "knn"]
    seen = {}
    for row in rows[1:]:
        for probe, cell in zip(header[1:], row[1:], strict=False):
            seen[row[0]["text"].split()[0], probe] = cell
    assert len(seen) == 8
    by_name = {result.name: result for result in results}
    for (name, probe), cell in seen.items():
        result = by_name[f"{name}_{probe}"]
        score = result.metrics["test/accuracy"]
        gain = 100 * (score["mean"] - by_name[f"random_{probe}"].metrics["test/accuracy"]["mean"])
        shown = f"{100 * score['mean']:.1f} ± {100 * score['interval95']:.1f}"
        assert cell["text"].strip() == shown + (f"{gain:+.1f}" if name != "random" else "")
        assert cell["hrefs"] == [result.run.url]
        assert result.run.key in cell["titles"][0]
        assert COMMIT in cell["titles"][0]


def test_every_number_of_the_page_links_to_the_run_of_a_result(results, rendered):
    urls = {result.run.url for result in results}
    linked = rendered[1].linked
    assert len(linked) > 30
    assert all(href in urls for _, href in linked)


def test_best_of_a_column_is_the_best_encoder_that_is_no_baseline(rendered):
    rows = rendered[1].table("leaderboard")
    assert [row[0]["text"].split()[0] for row in rows if any(cell["best"] for cell in row)] == ["simclr"]
    names = [row[0]["text"].split()[0] for row in rows[1:]]
    assert names == ["simclr", "rotation", "Baselines", "classifier", "random"]


def test_baseline_that_ties_with_the_best_is_not_bold(results, tmp_path):
    scores = {result.name: result.metrics for result in results}
    tied = [replace(r, metrics=scores[r.name.replace("classifier", "simclr")]) for r in probes_only(results)]
    rows = render(tied, tmp_path)[1].table("leaderboard")
    assert [row[0]["text"].split()[0] for row in rows if any(cell["best"] for cell in row)] == ["simclr"]


def test_page_needs_no_other_file(results, rendered):
    _, page, folder = rendered
    runs = {result.run.url for result in results}
    assert len(page.loads) > 10
    assert all(address.startswith("data:") for address in page.loads)
    assert all(href in runs or href.startswith("#") for href in page.hrefs)
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {href[1:] for href in page.hrefs if href.startswith("#")} <= anchors
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.elements}
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "leaderboard.csv"]


def test_no_address_in_styles_or_text(results, rendered):
    html = rendered[0]
    for result in results:
        html = html.replace(result.run.url, "")
    assert re.findall(r"https?:|@import|url\(", html) == []


def test_pictures_are_the_files(results, rendered):
    page = rendered[1]
    searched = [path for result in results if result.search for path in result.search.glob("*.png")]
    assert len(searched) == 2
    files = {path.read_bytes() for path in [*searched, *(path for result in results for path in result.figures)]}
    shown = {base64.b64decode(address.split(",")[1]) for address in page.loads if address.startswith("data:image/png")}
    assert shown == files


def test_each_experiment_shows_its_command_and_config(results, rendered):
    text = rendered[1].text
    for result in results:
        assert f"make it again: {result.command}" in " ".join(text.split())
    assert "temperature: {low" not in text
    assert "latent_dim: 16" in text
    assert "1.0\n" in text


def test_provenance_table_gives_run_commit_and_command_of_each_number(results, rendered):
    rows = rendered[1].table("provenance")[1:]
    probes = {result.command: result for result in results if result.family == "probe"}
    assert {row[-1]["text"] for row in rows} == set(probes)
    for row in rows:
        result = probes[row[-1]["text"]]
        assert row[4]["hrefs"] == [result.run.url]
        assert row[5]["titles"] == [COMMIT]


def test_search_shows_best_parameters_and_trials(results, rendered):
    page = rendered[1]
    best = {row[0]["text"]: row[1]["text"] for row in page.table("best-parameters")[1:]}
    assert best == {
        "number": "3", "value": "0.361", "params.temperature": "0.23", "params.train.optimizer.name": "lars"
    }  # fmt: skip
    trials = pd.read_csv(next(result.search for result in results if result.search) / "trials.csv")
    rows = page.table("trials")
    assert [cell["text"] for cell in rows[0]] == list(trials.columns)
    assert [row[2]["text"] for row in rows[1:]] == [f"{value:.4g}" for value in trials["value"]]


def test_single_seed_shows_no_interval(results, tmp_path):
    single = []
    for result in probes_only(results, seeds=(0,)):
        metrics = {name: summarise({0: values["seed_0"]}) for name, values in result.metrics.items()}
        single.append(replace(result, metrics=metrics))
    _, page = render(single, tmp_path)
    assert [text for text, _ in page.linked if "±" in text] == []
    assert "1 seed" in page.text
    assert pd.read_csv(tmp_path / "leaderboard.csv")["interval95"].isna().all()


def test_number_without_run_is_plain_and_says_so(results, tmp_path):
    _, page = render(probes_only(results, run=None), tmp_path)
    assert {href for _, href in page.linked} == {None}
    cells = [cell for row in page.table("leaderboard")[1:] for cell in row[1:]]
    assert all("no MLflow run is known" in cell["titles"][0] for cell in cells)


@pytest.mark.parametrize("url", [None, "javascript:alert(1)", "data:text/html,x", "//host/x"])
def test_run_that_nothing_shows_is_named_but_not_linked(results, tmp_path, url):
    run = RunLink("0123456789abcdef", url, COMMIT, dirty=True)
    html, page = render(probes_only(results, run=run), tmp_path)
    assert [href for href in page.hrefs if not href.startswith("#")] == []
    cell = page.table("leaderboard")[1][1]
    assert "run of key 0123456789abcdef" in cell["titles"][0]
    assert "uncommitted changes" in cell["titles"][0]
    assert "javascript" not in html


def test_everything_is_escaped(results, tmp_path):
    evil = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    encoder, probe = (result for result in results if result.name in ("simclr", "simclr_linear"))
    config = {**encoder.config, evil: evil}
    metrics = {**probe.metrics, f"{evil}/accuracy": probe.metrics["test/accuracy"]}
    run = replace(probe.run, key=evil, url=f'http://x/"><script>{evil}', commit=evil)
    hostile = [
        replace(encoder, name=evil, method=evil, config=config, stage=evil, command=evil, curves=None),
        replace(
            probe, config={**probe.config, "encoder": evil}, dataset=evil, metrics=metrics, run=run,
            seeds=(0,), method=evil, name="probe"
        ),
    ]  # fmt: skip
    html, page = render(hostile, tmp_path, title=evil, commit=evil, device=evil)
    assert "<script" not in html
    assert not [1 for _, attributes in page.elements if "onerror" in attributes]
    assert all(address.startswith("data:") for address in page.loads)
    assert page.text.count(evil) > 10


def test_without_probes_the_page_says_what_to_declare(results, tmp_path):
    encoders = [replace(result, curves=None) for result in results if result.family == "pretext"]
    _, page = render(encoders, tmp_path)
    assert "No probe is declared" in page.text
    assert "simclr_linear: {method: linear, dataset: DATASET, encoder: simclr}" in page.text
    assert pd.read_csv(tmp_path / "leaderboard.csv").empty


def test_dirty_commit_is_said(results, tmp_path, rendered):
    _, page = render(probes_only(results), tmp_path, dirty="true")
    assert "uncommitted changes" in page.text
    assert "uncommitted changes" not in rendered[1].text
    assert COMMIT[:10] in page.text
    assert "2.11.0" in page.text


def test_same_results_give_the_same_bytes(results, rendered, tmp_path):
    render(results, tmp_path)
    for name in ("index.html", "leaderboard.csv"):
        assert (tmp_path / name).read_bytes() == (rendered[2] / name).read_bytes()


def test_leaderboard_csv_holds_every_probe_exactly(results, rendered):
    frame = pd.read_csv(rendered[2] / "leaderboard.csv", float_precision="round_trip").set_index("stage")
    probes = [result for result in results if result.family == "probe"]
    assert sorted(frame.index) == sorted(result.stage for result in probes)
    floor = {probe: frame.loc[f"probe@random_{probe}", "mean"] for probe in PROBES}
    for result in probes:
        row, score = frame.loc[result.stage], result.metrics["test/accuracy"]
        assert (row["mean"], row["interval95"]) == (score["mean"], score["interval95"])
        assert (row["encoder"], row["probe"], row["dataset"]) == (result.config["encoder"], result.method, "digits")
        assert (row["seeds"], row["key"], row["commit"]) == (3, result.run.key, COMMIT)
        assert row["command"] == result.command
        if row["encoder"] == "random":
            assert np.isnan(row["gain"])
        else:
            assert row["gain"] == row["mean"] - floor[result.method]


def test_leaderboard_is_sorted_by_data_set_then_best_mean(results):
    other = [
        replace(result, dataset="animals", name=f"{result.name}_animals", stage=f"{result.stage}_animals")
        for result in results
        if result.family == "probe"
    ]
    frame = leaderboard([*results, *other])
    assert list(frame["dataset"]) == ["animals"] * 8 + ["digits"] * 8
    assert list(frame["encoder"])[::2] == ["classifier", "simclr", "rotation", "random"] * 2
    assert list(frame["probe"]) == ["linear", "knn"] * 8
    assert set(frame[frame["baseline"]]["encoder"]) == {"classifier", "random"}


def test_probes_with_other_numbers_get_a_column_of_their_own(results):
    changed = [
        replace(result, config={**result.config, "k": 5}) if result.name == "simclr_knn" else result
        for result in results
    ]
    frame = leaderboard(changed).set_index("stage")
    assert frame.loc["probe@simclr_knn", "probe"] == "knn k=5"
    assert frame.loc["probe@rotation_knn", "probe"] == "knn k=20"
    assert frame.loc["probe@simclr_linear", "probe"] == "linear"
    assert np.isnan(frame.loc["probe@simclr_knn", "gain"])


def test_gain_is_over_the_random_encoder_of_the_same_network(results):
    wide = {"network": "cnn", "width": 64, "depth": 3}
    changed = [
        replace(result, config={**result.config, "encoder": wide}) if result.name == "simclr" else result
        for result in results
    ]
    frame = leaderboard(changed)
    assert frame[frame["encoder"] == "simclr"]["gain"].isna().all()
    assert frame[frame["encoder"] == "rotation"]["gain"].notna().all()


def test_gain_is_over_the_random_encoder_on_the_same_data(results):
    probe = next(result for result in results if result.name == "random_linear")
    score = {"test/accuracy": summarise({0: 0.1})}
    other = replace(probe, dataset="animals", name="random_animals", stage="probe@random_animals", metrics=score)
    for order in ([*results, other], [other, *results]):
        frame = leaderboard(order).set_index("stage")
        gain = frame.loc["probe@simclr_linear", "mean"] - probe.metrics["test/accuracy"]["mean"]
        assert frame.loc["probe@simclr_linear", "gain"] == gain


def test_probe_of_an_encoder_without_result_is_refused(results):
    with pytest.raises(ValueError, match="probe@simclr_linear: its encoder 'simclr' has no result"):
        leaderboard([result for result in results if result.name != "simclr"])


def test_probe_without_test_accuracy_is_refused(results):
    broken = [replace(r, metrics={"x": summarise({0: 1.0})}) if r.name == "simclr_knn" else r for r in results]
    with pytest.raises(ValueError, match=r"probe@simclr_knn: a probe must have the metric 'test/accuracy'; got x"):
        leaderboard(broken)


def test_curves_without_a_value_get_no_picture(results, tmp_path):
    path = tmp_path / "random.csv"
    path.write_text("step,seed,validation/loss\n")
    kept = [replace(result, curves=path) for result in probes_only(results)]
    _, page = render(kept, tmp_path / "report")
    assert "Learning curves" not in page.text


def test_report_imports_no_torch():
    loaded = "import json, sys, mlml.report, mlml.statistics; print(json.dumps(sorted(sys.modules)))"
    root = Path(__file__).parents[1]
    modules = json.loads(
        subprocess.run([sys.executable, "-c", loaded], cwd=root, capture_output=True, check=True).stdout
    )
    assert "mlml.report" in modules
    assert not {"torch", "mlflow", "prefect", "dvc", "optuna", "matplotlib.pyplot"} & set(modules)


def test_pictures_of_a_supervised_method_stand_in_its_section(results, tmp_path):
    path = tmp_path / "seed_0_confusion.png"
    figures.image_grid(np.full((1, 1, 8, 8), 0.5), 1, path)
    changed = [replace(r, figures=[path]) if r.name == "classifier" else r for r in results]
    found = sections(render(changed, tmp_path)[0])
    assert showing(found, "classifier: confusion", path) == ["supervised"]


def sections(html):
    """The page's sections, by their anchor."""
    return {part.split('"')[0]: part.split("</section>")[0] for part in html.split('<section id="')[1:]}


def showing(found, alt, path):
    """Anchors of the sections that hold a picture under that text."""
    uri = base64.b64encode(path.read_bytes()).decode()
    return [anchor for anchor, part in found.items() if f'alt="{alt}"' in part and uri in part]


def sheet(path, grey):
    figures.image_grid(np.full((2, 1, 8, 8), grey), 2, path)
    return path


def test_what_a_pretext_does_and_what_a_probe_finds_are_no_generated_images(results, tmp_path):
    seen, maps = sheet(tmp_path / "seed_0_sheet.png", 0.3), sheet(tmp_path / "seed_0_maps.png", 0.7)
    drawn = {"rotation": [seen], "random_knn": [maps]}
    changed = [replace(r, figures=drawn[r.name]) if r.name in drawn else r for r in results]
    html, page = render(changed, tmp_path)
    found = sections(html)
    assert showing(found, "rotation: sheet", seen) == showing(found, "random_knn: maps", maps) == ["seen"]
    samples = next(path for r in results if r.name == "vae" for path in r.figures if path.name == "seed_0_samples.png")
    assert showing(found, "vae: samples", samples) == ["images"]
    assert re.findall(r"<h3>(.*?)</h3>", found["seen"]) == ["rotation", "random_knn"]
    assert re.findall(r"<h3>(.*?)</h3>", found["images"]) == ["vae"]
    assert {"#seen", "#images"} <= set(page.hrefs)


def test_without_pictures_of_a_pretext_the_page_has_no_section_for_them(results, rendered, tmp_path):
    html, page, _ = rendered
    assert "seen" not in sections(html)
    assert "#seen" not in page.hrefs
    others = [replace(r, curves=None) for r in results if r.family != "generative"]
    html, page = render(others, tmp_path)
    assert not {"seen", "images"} & set(sections(html))
    assert not {"#seen", "#images"} & set(page.hrefs)
