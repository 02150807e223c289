import json
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from blobs import write_prepared

from mlml.declaration import resolve
from stages._training import start_device, train, train_experiment
from stages.prepare import PREPARED

CPU = torch.device("cpu")


@pytest.mark.parametrize("threads", [1, 3])
def test_a_stage_computes_with_the_declared_threads(threads):
    before = torch.get_num_threads()
    try:
        start_device(SimpleNamespace(declaration=SimpleNamespace(threads=threads)))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_the_declared_processes_train(blob_data, tmp_path):
    found = []
    for processes in (1, 2):
        numbers = {"steps": 6, "batch_size": 16, "evaluate_every": 3, "processes": processes}
        encoder = {"network": "mlp", "hidden_widths": [16]}
        entry = {"method": "classifier", "dataset": "blobs", "encoder": encoder, "train": numbers}
        told = {}
        folder = tmp_path / str(processes)
        found.append(train(resolve("supervised", "blob", entry), blob_data, 0, folder, CPU, told.__setitem__)[1])
        assert list(told) == [3, 6]
        assert (folder / "job.json").exists() == (processes == 2)
        assert (folder / "points.jsonl").exists()
    assert found[1] == pytest.approx(found[0], rel=1e-2)


def test_the_diagnosis_knows_what_the_method_s_class_says_of_its_loss(tmp_path, monkeypatch):
    """MoCo's loss rises as the queue fills, and that is no illness."""
    monkeypatch.chdir(tmp_path)
    write_prepared(tmp_path / PREPARED / "blobs")
    numbers = {"steps": 20, "batch_size": 32, "log_every": 2, "evaluate_every": 10}
    encoder = {"network": "mlp", "hidden_widths": [16], "norm": "none"}
    entry = {"method": "moco", "dataset": "blobs", "seeds": [0], "encoder": encoder, "train": numbers}
    experiment = resolve("pretext", "m", {**entry, "queue_size": 64})
    stage, run = MagicMock(), MagicMock(folder=tmp_path / "run")
    stage.name, stage.declaration.threads, stage.nested_run.return_value = "m", torch.get_num_threads(), run
    stage.declaration.experiments = {"m": experiment}
    stage.steps.run.side_effect = lambda label, work: work()
    train_experiment(stage, lambda method, data, seed: {})
    assert json.loads((tmp_path / "reports/diagnostics/m.json").read_text())["verdicts"] == []
    for told in (run, stage.run):
        assert told.add_tags.call_args.args[0]["mlml.diagnosis"] == "no illness found"
