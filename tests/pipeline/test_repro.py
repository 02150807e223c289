"""The whole pipeline, tiny, through real `dvc repro`: what runs, what runs again, and what is left behind.

The tests of this module stand on each other, in their order: they share one project.
"""

import csv
import html.parser
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

STAGES = {
    *("check", "prepare@digits", "supervised@classifier", "pretext@random", "pretext@rotation", "pretext@simclr"),
    *("probe@simclr_linear", "probe@random_linear", "probe@rotation_knn", "generative@vae", "search@rate", "report"),
}


@pytest.fixture(scope="module", autouse=True)
def _warm_stages(project):
    with project.warm():
        yield


def mlflow_program(project, program: str) -> str:
    return project.run("python", "-c", f"import warnings; warnings.simplefilter('ignore')\n{program}").strip()


def test_everything_runs_once(project):
    printed = project.run("make", "repro")
    assert {line.split("'")[1] for line in printed.splitlines() if "| Running stage '" in line} == STAGES
    assert "12 ran" in printed
    assert "up to date" in project.run("dvc", "status")
    assert "up to date" in project.run("mlml", "plan")
    assert project.repro() == []
    assert (project.folder / "reports/index.html").stat().st_size > 10_000


def test_outputs_lie_in_a_folder_per_seed(project):
    for name, seeds in (("simclr", (0, 1)), ("rotation", (0,)), ("vae", (0,))):
        found = sorted(path.name for path in (project.folder / "models" / name).iterdir())
        assert found == [f"seed_{seed}" for seed in seeds]
    metrics = json.loads((project.folder / "reports/metrics/simclr_linear.json").read_text())["test/accuracy"]
    assert metrics["mean"] == pytest.approx((metrics["seed_0"] + metrics["seed_1"]) / 2)
    assert metrics["interval95"] > 0
    assert (
        json.loads((project.folder / "reports/metrics/rotation_knn.json").read_text())["test/accuracy"]["interval95"]
        is None
    )


def test_checkpoints_are_gone(project):
    assert not list((project.folder / ".mlml/runs").rglob("*.ckpt"))
    [study] = (project.folder / ".mlml/runs").rglob("study")
    assert {path.name for path in study.iterdir()} == {"journal.log", "over"}


def test_pictures_and_curves(project):
    figures = {path.name for path in (project.folder / "reports/figures/vae").iterdir()}
    drawn = ("samples", "reconstructions", "interpolation", "latents", "nearest", "traversals")
    assert figures == {f"seed_0_{name}.png" for name in (*drawn, "over_training")} | {"seed_0_over_training.gif"}
    figures = {path.name for path in (project.folder / "reports/figures/classifier").iterdir()}
    assert figures == {"seed_0_confusion.png", "seed_0_mistakes.png"}  # after 12 steps there are mistakes
    rows = list(csv.DictReader((project.folder / "reports/curves/simclr.csv").open()))
    assert [(row["seed"], row["step"]) for row in rows] == [(s, t) for s in "01" for t in ("4", "8", "12")]
    assert all(float(row["train/loss"]) > 0 and float(row["validation/loss"]) > 0 for row in rows)
    trials = list(csv.DictReader((project.folder / "reports/search/rate/trials.csv").open()))
    assert len(trials) == 3
    figures = {path.stem for path in (project.folder / "reports/figures/rate").iterdir()}
    complete = sum(trial["state"] == "complete" for trial in trials)
    assert figures == {"history", "importance", "slices"} | ({"posterior"} if complete >= 3 else set())
    said = json.loads((project.folder / "reports/search/rate/sentences.json").read_text())
    assert any("too few to tell whether the search has converged" in sentence for sentence in said)


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for key, value in attributes if tag == "a" and key == "href"]


def test_the_top_number_leads_to_its_run_commit_and_hashes(project):
    """From the report's first row: the MLflow run, its commit, and the md5s of dvc.lock."""
    top = next(csv.DictReader((project.folder / "reports/leaderboard.csv").open()))
    links = Links()
    links.feed((project.folder / "reports/index.html").read_text())
    assert f"../.mlml/runs.html#{top['key']}" in links.found
    assert (project.folder / "reports" / "../.mlml/runs.html").exists()
    printed = mlflow_program(
        project,
        "import json, mlflow\n"
        "client = mlflow.MlflowClient('sqlite:///.mlml/mlflow.db')\n"
        "experiment = client.get_experiment_by_name('mlml').experiment_id\n"
        f"asked = \"tags.`dvc.key` = '{top['key']}' and tags.`dvc.stage` = '{top['stage']}'\"\n"
        "found = client.search_runs([experiment], asked)\n"
        "[run] = [run for run in found if 'mlflow.parentRunId' not in run.data.tags]\n"
        "print(json.dumps({'tags': run.data.tags, 'metrics': run.data.metrics, 'status': run.info.status}))",
    )
    run = json.loads(printed.splitlines()[-1])
    assert run["status"] == "FINISHED"
    assert run["metrics"]["test/accuracy"] == pytest.approx(float(top["mean"]))
    assert run["tags"]["git.commit"] == project.run("git", "rev-parse", "HEAD").strip() == top["commit"]
    assert run["tags"]["git.dirty"] == "false"
    locked = project.lock()[top["stage"]]
    for kind, tag in (("deps", "dvc.dep"), ("outs", "dvc.out")):
        assert {entry["path"]: entry["md5"] for entry in locked[kind]} == {
            key.removeprefix(f"{tag}."): value for key, value in run["tags"].items() if key.startswith(f"{tag}.")
        }


def test_metrics_over_steps_reach_mlflow_once(project):
    printed = mlflow_program(
        project,
        "import json, mlflow\n"
        "client = mlflow.MlflowClient('sqlite:///.mlml/mlflow.db')\n"
        "experiment = client.get_experiment_by_name('mlml').experiment_id\n"
        "runs = client.search_runs([experiment], \"tags.`dvc.stage` = 'pretext@simclr' and tags.`mlml.seed` = '1'\")\n"
        "points = [(p.step, p.value) for p in client.get_metric_history(runs[0].info.run_id, 'train/loss')]\n"
        "parent = client.get_run(runs[0].data.tags['mlflow.parentRunId'])\n"
        "inputs = [i.dataset.name for i in parent.inputs.dataset_inputs]\n"
        "artifacts = [a.path for a in client.list_artifacts(parent.info.run_id)]\n"
        "print(json.dumps([len(runs), points, parent.data.tags['dvc.stage'], inputs, artifacts, runs[0].data.params]))",
    )
    count, points, parent, inputs, artifacts, params = json.loads(printed.splitlines()[-1])
    assert count == 1
    assert [step for step, _ in points] == [2, 4, 6, 8, 10, 12]
    local = [
        json.loads(line)["value"]
        for line in next((project.folder / ".mlml/runs/pretext@simclr").glob("*/seed_1/points.jsonl")).open()
        if json.loads(line)["name"] == "train/loss"
    ]
    assert [value for _, value in points] == local
    assert parent == "pretext@simclr"
    assert inputs == ["digits"]
    assert {"simclr", "simclr.json", "simclr.csv", "diagnostics"} <= set(artifacts)
    assert params["temperature"] == "0.5"


def test_the_table_has_every_encoder_with_what_it_cost(project):
    table = project.run("mlml", "table")
    page = project.folder / "docs/results.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text("# Results\n<!-- mlml table: Tiny -->\n<!-- end of table -->\n")
    project.run("mlml", "table", "--into", "docs/results.md")
    assert table.strip() in page.read_text()
    board = list(csv.DictReader((project.folder / "reports/leaderboard.csv").open()))
    assert len(board) == 3
    for row in board:
        [line] = [line for line in table.splitlines() if line.startswith(f"| `{row['encoder']}` |")]
        assert f" {100 * float(row['mean']):.1f}" in line
        seconds, mebibytes = line.strip("| ").split(" | ")[-2:]
        assert (mebibytes == "–") == (row["method"] == "random")
        assert mebibytes == "–" or float(mebibytes.replace(",", "")) > 100
        assert (seconds == "–") == (mebibytes == "–")
    page.unlink()


def test_a_trained_method_loads_in_a_notebook(project):
    program = "import mlml, torch; m = mlml.load('models/simclr/seed_1'); print(m.encode(torch.rand(3, 1, 8, 8)).shape)"
    assert "torch.Size([3, 16])" in project.run("python", "-c", program)


def test_dvc_shows_and_compares_metrics(project):
    assert "reports/metrics/vae.json" in project.run("dvc", "metrics", "show")
    project.run("git", "add", "dvc.lock")
    project.run("git", "commit", "-qm", "Keep the results")
    plotted = project.run("dvc", "plots", "show", "reports/curves/simclr.csv", "-o", "plots")
    assert "index.html" in plotted
    shutil.rmtree(project.folder / "plots")


def test_one_number_runs_again_its_experiment_and_its_dependents_only(project):
    before = project.hashes("models/rotation", "models/random", "models/simclr")
    project.edit("params.yaml", "train: *train, seeds: [0, 1]}", "train: *train, seeds: [0, 1], temperature: 0.3}")
    assert set(project.repro()) == {"check", "pretext@simclr", "probe@simclr_linear", "report"}
    after = project.hashes("models/rotation", "models/random", "models/simclr")
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {f"models/simclr/seed_{s}/model.{kind}" for s in (0, 1) for kind in ("json", "safetensors")}
    differences = project.run("dvc", "metrics", "diff")
    assert "simclr_linear.json" in differences or "simclr.json" in differences
    assert "rotation" not in differences


def test_a_new_method_is_one_file_and_one_entry(project):
    """The one that docs/methods.md shows."""
    document = (ROOT / "docs/methods.md").read_text()
    code = document.split("```python\n")[1].split("```")[0]
    (project.folder / "mlml/pretext/mine.py").write_text(code)
    entry = "mine: {method: mine, dataset: digits, encoder: *encoder, train: *train}"
    project.edit("params.yaml", "pretext:\n", f"pretext:\n  {entry}\n")
    assert project.repro("pretext@mine") == ["check", "pretext@mine"]
    metrics = json.loads((project.folder / "reports/metrics/mine.json").read_text())
    assert metrics["validation/loss"]["mean"] > 0
    project.edit("params.yaml", f"  {entry}\n", "")
    (project.folder / "mlml/pretext/mine.py").unlink()


def test_one_method_s_file_runs_again_that_method_s_experiments_only(project):
    project.edit("mlml/pretext/simclr.py", "logits = z @ z.T / temperature", "logits = 1.01 * z @ z.T / temperature")
    assert set(project.repro("probe@simclr_linear")) == {"check", "pretext@simclr", "probe@simclr_linear"}
    assert project.repro() == ["report"]


def test_a_fault_stops_everything_before_any_output_is_touched(project):
    before = project.hashes("models", "reports", "data/prepared")
    text = (project.folder / "params.yaml").read_text()
    project.declare(text.replace("latent_dim: 4", "latent_dims: 5").replace("encoder: rotation", "encoder: rotatoin"))
    printed = project.run("dvc", "repro", code=255)
    for sentence in (
        "params.yaml: generative.vae.latent_dims: unknown key; did you mean 'latent_dim'?",
        "params.yaml: probe.rotation_knn.encoder: no experiment 'rotatoin' is declared in supervised or pretext;",
    ):
        assert sentence in printed
        assert sentence in project.run("mlml", "check", code=2)
        assert sentence in project.run("python", "-m", "stages", "generative", "vae", code=2)
    assert project.hashes("models", "reports", "data/prepared") == before
    project.declare(text)
    project.repro()


def test_a_server_that_is_away_costs_nothing_but_a_sentence(project):
    """MLflow and Prefect both unreachable: the stage succeeds, and `mlml sync` sends the run exactly once."""
    project.edit("params.yaml", "latent_dim: 4", "latent_dim: 3")
    away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    printed = project.run("dvc", "repro", "-s", "check", "generative@vae", **away)
    assert "'mlml sync' sends it later" in printed
    assert printed.count("Prefect server http://127.0.0.1:9/api does not answer") == 1
    count = (
        "import json, mlflow\n"
        "client = mlflow.MlflowClient('sqlite:///.mlml/mlflow.db')\n"
        "experiment = client.get_experiment_by_name('mlml').experiment_id\n"
        "runs = client.search_runs([experiment], \"tags.`dvc.stage` = 'generative@vae' and params.latent_dim = '3'\")\n"
        "points = [len(client.get_metric_history(run.info.run_id, 'train/loss')) for run in runs]\n"
        "print(json.dumps(points))"
    )
    assert mlflow_program(project, count).splitlines()[-1] == "[]"
    for _ in range(2):
        project.run("mlml", "sync")
        assert mlflow_program(project, count).splitlines()[-1] == "[6]"


def test_a_loss_that_is_not_finite_fails_the_stage(project):
    rate = "{name: sgd, learning_rate: 1.0e+30}"
    train = f"{{steps: 50, log_every: 1, checkpoint_every: 1, evaluate_every: 50, optimizer: {rate}}}"
    project.edit("params.yaml", "train: *train, latent_dim: 3", f"train: {train}, latent_dim: 3")
    project.run("dvc", "repro", "check")
    printed = project.run("python", "-m", "stages", "generative", "vae", code=1)
    assert "NonFiniteLossError: VAE: phase 'train': the loss is" in printed
    assert "last finite values: train/loss=" in printed
    program = (
        "import mlflow\n"
        "client = mlflow.MlflowClient('sqlite:///.mlml/mlflow.db')\n"
        "experiment = client.get_experiment_by_name('mlml').experiment_id\n"
        "runs = client.search_runs([experiment], \"tags.`dvc.stage` = 'generative@vae'\")\n"
        "print(runs[0].info.status)"
    )
    assert mlflow_program(project, program).splitlines()[-1] == "FAILED"


def test_nothing_but_the_own_servers_is_contacted():
    """The project's settings switch analytics off; see stages/_servers.py."""
    program = "from pathlib import Path; from stages._servers import settings; print(settings(Path('.')))"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW", "DO_NOT"))}
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=clean
    ).stdout
    for setting in (
        "'DO_NOT_TRACK': 'true'",
        "'PREFECT_SERVER_ANALYTICS_ENABLED': 'false'",
        "'MLFLOW_DISABLE_TELEMETRY': 'true'",
    ):
        assert setting in printed
