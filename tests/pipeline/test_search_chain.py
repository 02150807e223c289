"""From a search by a probe to the experiment that uses what was found, and the page: one declaration, killed midway."""

import os
import signal

import pandas as pd
import pytest
from ruamel.yaml import YAML
from test_search import wait_for, workers

pytestmark = pytest.mark.soak

CHAIN = """
threads: 1
data: {digits: {source: digits}}
protocol:
  encoder: &encoder {network: mlp, hidden_widths: [32]}
  linear: &linear {method: linear, dataset: digits, train: {steps: 40}}
supervised: {}
pretext:
  simclr:
    method: simclr
    dataset: digits
    seeds: [0, 1, 2]
    encoder: *encoder
    train: {steps: 60, batch_size: 64, evaluate_every: 20, checkpoint_every: 10}
search:
  rate:
    method: tpe
    experiment: simclr
    objective: simclr_linear
    dataset: digits
    space:
      temperature: {type: float, low: 0.05, high: 1.0, log: true}
      augment.jitter_prob: {type: float, low: 0.0, high: 1.0}
    metric: validation/accuracy
    direction: maximize
    trials: 8
    startup_trials: 3
    workers: 2
searched:
  simclr_best: {experiment: simclr, from_search: rate, dataset: digits, seeds: [1, 2]}
probe:
  simclr_linear: {<<: *linear, encoder: simclr, seeds: [0, 1, 2]}
  best_linear: {<<: *linear, encoder: simclr_best, seeds: [1, 2]}
generative: {}
"""
LEFT = ("reports/search", "reports/metrics", "reports/curves", "models/simclr_best")


def test_the_chain_killed_in_the_middle_ends_as_if_it_had_not_been(project, tmp_path_factory, environment):
    from project import Project

    project.declare(CHAIN)
    project.run("git", "commit", "-qam", "Chain")
    dvc = project.start("dvc", "repro")
    wait_for(lambda: workers(project), "the worker")
    log = project.folder / "started.log"
    wait_for(lambda: "trial 3: " in log.read_text(), "the fourth trial")
    os.killpg(dvc.pid, signal.SIGKILL)
    dvc.wait()
    wait_for(lambda: not workers(project), "the end of the worker")
    project.run("dvc", "repro")

    whole = Project(tmp_path_factory.mktemp("whole"), environment)
    whole.declare(CHAIN)
    whole.run("git", "commit", "-qam", "Chain")
    whole.run("dvc", "repro")
    assert project.hashes(*LEFT) == whole.hashes(*LEFT)

    boards = [pd.read_csv(each.folder / "reports/leaderboard.csv") for each in (project, whole)]
    pd.testing.assert_frame_equal(*(board.drop(columns="commit") for board in boards))
    assert {"simclr", "simclr_best"} <= set(boards[0]["encoder"])

    found = YAML(typ="safe").load(project.folder / "reports/search/rate/best.yaml")
    page = (project.folder / "reports/index.html").read_text()
    assert found["objective"] == "simclr_linear"
    assert "simclr_best" in page
    assert f"{found['overrides']['temperature']:.3g}"[:4] in page
