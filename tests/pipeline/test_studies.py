"""Studies, illustrations, evaluations, comparisons through real `dvc repro`, up to the page; a killed study; a lesson.

The tests of this module stand on each other, in their order: they share one project.
"""

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
from project import ROOT, declaration
from ruamel.yaml import YAML

from mlml.declaration import read

LIMIT_SECONDS = 300

STUDIED = declaration(
    "steps: 60, batch_size: 64, log_every: 10, evaluate_every: 20, checkpoint_every: 10",
    """
supervised:
  classifier:
    {method: classifier, dataset: digits, encoder: *encoder, train: *train, seeds: [0, 1], augment: {padding: 0}}
  slow:
    {method: classifier, dataset: digits, encoder: *encoder, train: {steps: 4}, seeds: [0, 1], augment: {padding: 0}}
pretext: {}
probe: {}
generative:
  vae: {method: vae, dataset: digits, encoder: *encoder, train: {steps: 4}, seeds: [0, 1]}
composed:
  latent:
    method: latent_diffusion
    dataset: digits
    base: vae
    train: {steps: 4, batch_size: 64}
    sampler: {name: ddim, steps: 3}
    seeds: [0, 1]
evaluation:
  quality: {method: sample_quality, generator: vae, extractor: classifier, dataset: digits, seeds: [0, 1]}
study:
  more: {method: learning_curve, experiment: classifier, dataset: digits, fractions: [0.1, 0.5, 1.0], seeds: [0, 1]}
  latents:
    {method: learning_curve, experiment: latent, dataset: digits, metric: validation/loss, fractions: [0.5, 1.0]}
  around: {method: loss_landscape, experiment: classifier, dataset: digits, points: 5}
  samplers:
    method: search_regret
    experiment: slow
    dataset: digits
    seeds: [0, 1]
    space: {train.optimizer.learning_rate: {type: float, low: 0.001, high: 0.1, log: true}}
    trials: 3
    searches: {luck: {method: random}, tree: {method: tpe, startup_trials: 1}}
illustration:
  ravine:
    {method: optimizer_paths, surface: ravine, start: [5, 1], steps: 9, optimizers: {adam: {name: adam}}}
  wave: {method: schedule_curves, schedules: {cosine: {name: cosine}}}
  valleys:
    method: search_regret
    function: branin
    trials: 4
    num_seeds: 2
    searches: {luck: {method: random}, grid: {method: grid, points: {x: 2, y: 2}}}
report:
  title: Studied
  comparisons: [{title: Length, of: [classifier, slow]}]
""",
)
OUTPUTS = ("reports/findings/more", "reports/figures/more", "reports/metrics/more.json")


def load(project, path):
    return json.loads((project.folder / path).read_text())


def test_they_reach_the_page(project):
    project.declare(STUDIED)
    with project.warm():
        ran = set(project.repro())
    studies = {f"study@{name}" for name in ("more", "latents", "around", "samplers")}
    studies |= {f"illustration@{name}" for name in ("ravine", "wave", "valleys")}
    evaluated = {"generative@vae", "composed@latent", "evaluation@quality"}
    assert ran == {
        *("check", "prepare@digits", "supervised@classifier", "supervised@slow", "report"),
        *studies,
        *evaluated,
    }
    assert project.repro() == []
    page = (project.folder / "reports/index.html").read_text()
    for name in ("more", "latents", "around", "samplers", "ravine", "wave", "valleys"):
        sentences = load(project, f"reports/findings/{name}/sentences.json")
        assert sentences
        assert all(sentence.replace("'", "&#39;") in page for sentence in sentences)
        pictures = {path.stem for path in (project.folder / f"reports/figures/{name}").iterdir()}
        assert {f"{stem}_dark" for stem in pictures if not stem.endswith("_dark")} < pictures
    assert "classifier is best: test/accuracy" in page
    assert page.count('class="card experiment finding"') == 7


def test_samplers_are_compared_on_trainings_of_the_experiment(project):
    """The best training of each seed has the regret 0, and nothing of the trainings stays."""
    with (project.folder / "reports/findings/samplers/values.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3
    for seed in "01":
        own = [row for row in rows if row["seed"] == seed]
        best = min(float(row["value"]) for row in own)
        metrics = load(project, "reports/metrics/samplers.json")
        for label in ("luck", "tree"):
            lowest = min(float(row["value"]) for row in own if row["search"] == label)
            assert metrics[f"{label}/regret"][f"seed_{seed}"] == pytest.approx(lowest - best)
    assert len({row["value"] for row in rows}) > 6
    [run] = (project.folder / ".mlml/runs/study@samplers").iterdir()
    assert not (run / "study").exists()


def test_an_evaluation_waits_for_both_models_and_holds_no_time(project):
    stage = YAML(typ="safe").load(project.folder / "dvc.lock")["stages"]["evaluation@quality"]
    models = {"models/vae", "reports/figures/vae", "models/classifier"}
    assert models | {"mlml/evaluations/sample_quality.py", "mlml/metrics.py"} <= {dep["path"] for dep in stage["deps"]}
    metrics = load(project, "reports/metrics/quality.json")
    digest = load(project, "models/classifier/seed_0/model.json")["weights_sha256"][:6]
    count = min(load(project, "data/prepared/digits/spec.json")["sizes"][split] for split in ("train", "test"))
    assert metrics[f"test/fid_classifier-{digest}_n{count}"] == metrics["test/fid"]
    assert metrics["floor/fid"]["seed_0"] == metrics["floor/fid"]["seed_1"]
    assert not [name for name in metrics if name.startswith("system/")]
    points = (project.folder / ".mlml/runs/evaluation@quality").rglob("seed_0/points.jsonl")
    assert "system/sample_seconds" in next(points).read_text()
    pictures = {path.name for path in (project.folder / "reports/figures/quality").iterdir()}
    assert pictures == {f"seed_{seed}_{kind}.png" for seed in (0, 1) for kind in ("samples", "class_histogram")}
    assert 'id="evaluations"' in (project.folder / "reports/index.html").read_text()


def test_a_composed_experiment_stands_on_the_model_of_its_seed(project):
    """Its folder holds that, bit for bit, and a study of it trains on what the folder holds."""
    stage = YAML(typ="safe").load(project.folder / "dvc.lock")["stages"]["composed@latent"]
    dependencies = {"models/vae", "mlml/composed/latent_diffusion.py", "mlml/generative/_variational.py"}
    assert dependencies <= {dep["path"] for dep in stage["deps"]}
    for seed in (0, 1):
        base, latent = (load_tensors(project.folder / f"models/{name}/seed_{seed}") for name in ("vae", "latent"))
        assert base
        assert all(latent[f"base.{key}"].equal(value) for key, value in base.items())
    pictures = {path.name for path in (project.folder / "reports/figures/latent").iterdir()}
    drawn = ("samples", "nearest", "reconstructions", "interpolation")
    assert {f"seed_1_{name}.png" for name in drawn} <= pictures
    own = load(project, "reports/metrics/latent.json")["validation/loss"]["seed_0"]
    assert load(project, "reports/metrics/latents.json")["fraction_1/validation/loss"]["seed_0"] == own


def load_tensors(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def test_the_whole_part_is_the_experiment(project):
    own = load(project, "reports/metrics/classifier.json")["validation/accuracy"]
    assert load(project, "reports/metrics/more.json")["fraction_1/validation/accuracy"] == own
    assert not list((project.folder / ".mlml/runs").rglob("*.ckpt"))


def test_another_title_runs_no_study_again(project):
    project.edit("params.yaml", "title: Length", "title: Longer")
    assert project.repro() == ["check", "report"]


@pytest.mark.soak
def test_a_killed_study_ends_the_same(project):
    project.declare(STUDIED)  # also where no other test of this file ran before
    project.run("dvc", "repro", "supervised@classifier")
    command = ("dvc", "repro", "--single-item", "--force", "--no-run-cache", "study@more")
    project.run(*command)
    whole = project.hashes(*OUTPUTS)
    runs = project.folder / ".mlml/runs/study@more"
    shutil.rmtree(runs)
    dvc = project.start(*command)
    deadline = time.monotonic() + LIMIT_SECONDS
    while not list(runs.rglob("fraction_0.5_seed_0/step_*.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(dvc.pid, signal.SIGKILL)
    dvc.wait(LIMIT_SECONDS)
    project.run(*command)
    assert project.hashes(*OUTPUTS) == whole


@pytest.mark.soak
def test_a_lesson_is_taught(project):
    """That of the initial weights, as it is in experiments/: what cannot learn does not, and the page says so."""
    shutil.copy(ROOT / "experiments/initialisers.yaml", project.folder / "params.yaml")
    with project.warm():
        project.run("mlml", "repro")
    accuracy = {
        name: load(project, f"reports/metrics/{name}.json")["test/accuracy"]["mean"]
        for name in read(Path("experiments/initialisers.yaml")).experiments
    }
    assert max(accuracy["zero"], accuracy["constant"], accuracy["normal"]) < 0.35
    assert min(accuracy["xavier"], accuracy["he"], accuracy["orthogonal"]) > 0.85
    page = (project.folder / "reports/index.html").read_text()
    for name in ("zero", "constant", "normal"):
        line = next(line for line in page.splitlines() if line.startswith(f"<li>{name} reached"))
        assert line.endswith("far outside of what seeds explain.</li>")
