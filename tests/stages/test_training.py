from types import SimpleNamespace

import pytest
import torch

from mlml.declaration import resolve
from stages._training import start_device, train

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
