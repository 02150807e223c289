"""Training in several processes, started by torchrun on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from processes import alive

from mlml import model_folder, ranks
from mlml.data.batches import Batches
from mlml.declaration import resolve
from mlml.ranks import RankError
from mlml.seeds import seed_everything
from mlml.train import fit

CPU = torch.device("cpu")
TRAIN = {
    "steps": 12,
    "batch_size": 16,
    "log_every": 2,
    "evaluate_every": 4,
    "checkpoint_every": 3,
    "processes": 2,
    "optimizer": {"name": "sgd", "learning_rate": 0.05},
}


def config(encoder=None, **train):
    encoder = encoder or {"network": "mlp", "hidden_widths": [16, 16]}
    entry = {"method": "classifier", "dataset": "blobs", "encoder": encoder, "train": {**TRAIN, **train}}
    return resolve("supervised", "classifier", entry).config


def several(data, folder, on_evaluation=None, encoder=None, **numbers):
    return ranks.train("supervised", "classifier", config(encoder, **numbers), data.folder, 0, folder, on_evaluation)


def one(data, folder, encoder=None, **train):
    numbers = config(encoder, **{**train, "shard": False})
    seed_everything(0, "init")
    method = model_folder.build("supervised", "classifier", numbers, data.spec)
    splits = [data.split(name) for name in ("train", "validation")]
    batches = [Batches(split.images, split.labels, numbers.train.batch_size, 0, CPU) for split in splits]
    return method, fit(method, *batches, numbers.train, 0, folder).metrics


def assert_near(found, expected):
    for key, value in expected[0].state_dict().items():
        torch.testing.assert_close(found[0].state_dict()[key], value, rtol=1e-3, atol=1e-4, msg=key)
    assert found[1] == pytest.approx(expected[1], rel=1e-3)


def test_two_processes_train_as_one(blob_data, tmp_path):
    told = []
    found = several(blob_data, tmp_path / "two", lambda step, metrics: told.append((step, metrics)))
    assert_near(found, one(blob_data, tmp_path / "one"))
    assert [step for step, _ in told] == [4, 8, 12]
    assert told[-1][1] == found[1]
    assert not found[0].training


def test_what_a_composed_method_stands_on_reaches_every_process(blob_data, tmp_path):
    """Also where its parameters are cut, and it is put together in the end."""
    encoder = {"network": "mlp", "hidden_widths": [16]}
    vae = {"encoder": encoder, "latent_dim": 2, "train": {"steps": 1}}
    torch.manual_seed(3)
    base = model_folder.build("generative", "vae", vae, blob_data.spec).eval()
    numbers = {"width": 16, "num_blocks": 1}
    entry = {"method": "latent_diffusion", "dataset": "blobs", "base": "vae", "denoiser": numbers}
    declared = resolve("composed", "latent", {**entry, "train": {**TRAIN, "shard": True}}).config
    method, metrics = ranks.train(
        "composed", "latent_diffusion", declared, blob_data.folder, 0, tmp_path / "two", base=base
    )
    weights = method.state_dict()
    assert all(torch.equal(weights[f"base.{key}"], value) for key, value in base.state_dict().items())
    alone = resolve("composed", "latent", {**entry, "train": {**TRAIN, "processes": 1}}).config
    seed_everything(0, "init")
    expected = model_folder.build("composed", "latent_diffusion", alone, blob_data.spec, base)
    splits = [blob_data.split(name) for name in ("train", "validation")]
    batches = [Batches(split.images, split.labels, 16, 0, CPU) for split in splits]
    fitted = fit(expected, *batches, alone.train, 0, tmp_path / "one")
    assert_near((method, metrics), (expected, fitted.metrics))


class Stopped(Exception):
    """What a test ends a training with."""


def stop(step, metrics):
    if step == 8:
        raise Stopped


def test_more_than_two_processes_go_on_bit_for_bit(blob_data, tmp_path):
    wide = {"network": "mlp", "hidden_widths": [512, 512]}  # enough gradients that the order of their sum matters
    numbers = {"processes": 3, "batch_size": 15, "optimizer": {"name": "adamw", "learning_rate": 0.003}}
    whole = several(blob_data, tmp_path / "whole", encoder=wide, **numbers)
    with pytest.raises(Stopped):
        several(blob_data, tmp_path / "parts", stop, wide, **numbers)
    resumed = several(blob_data, tmp_path / "parts", encoder=wide, **numbers)
    for key, value in whole[0].state_dict().items():
        assert torch.equal(value, resumed[0].state_dict()[key]), key


VIT = {"network": "vit", "patch_size": 4, "dim": 16, "depth": 2, "num_heads": 2}
SHARDED = {"shard": True, "ema_decay": 0.9, "clip_norm": 1.0, "restore_best": True, "l2": 1e-3}


@pytest.mark.parametrize(
    ("encoder", "train"),
    [
        (None, {"optimizer": {"name": "adamw", "learning_rate": 0.003}}),
        (VIT, {"optimizer": {"name": "lars", "learning_rate": 0.5}, "accumulate": 2}),
    ],
)
def test_cut_parameters_train_as_whole_ones(blob_data, tmp_path, encoder, train):
    expected = one(blob_data, tmp_path / "one", encoder, **{**SHARDED, **train})
    found = several(blob_data, tmp_path / "whole", encoder=encoder, **{**SHARDED, **train})
    assert_near(found, expected)

    with pytest.raises(Stopped):
        several(blob_data, tmp_path / "parts", stop, encoder, **{**SHARDED, **train})
    resumed = several(blob_data, tmp_path / "parts", encoder=encoder, **{**SHARDED, **train})
    assert resumed[1] == found[1]
    for key, value in found[0].state_dict().items():
        assert torch.equal(value, resumed[0].state_dict()[key]), key


def test_cutting_needs_several_processes(blob_data, tmp_path):
    numbers = config(shard=True, processes=1)
    method = model_folder.build("supervised", "classifier", numbers, blob_data.spec)
    split = blob_data.split("train")
    batches = Batches(split.images, split.labels, 16, 0, CPU)
    with pytest.raises(ValueError, match=r"train\.shard: needs train\.processes of at least 2, .*; got 1, and of "):
        fit(method, batches, batches, numbers.train, 0, tmp_path)


def test_the_error_of_a_process_ends_the_training(blob_data, tmp_path):
    with pytest.raises(
        RankError, match=r"process \d of 2: NonFiniteLossError: Classifier: phase 'train': the loss is"
    ) as e:
        several(blob_data, tmp_path, optimizer={"name": "sgd", "learning_rate": 1e30}, log_every=1)
    assert f"stays in {tmp_path}" in str(e.value)  # whichever process was the first to end


def test_a_batch_that_the_processes_cannot_share_is_refused(blob_data, tmp_path):
    with pytest.raises(
        RankError, match=r"train\.batch_size: must be a multiple .*, 5; got 96, all images .*; take 95,"
    ):
        several(blob_data, tmp_path, batch_size="full", processes=5)


def work_processes():
    """Ranks that run as descendants of this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[1:4] and "work" in process.cmdline() and "mlml.ranks" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def ranks_that_train(folder):
    """Wait until the ranks have left a checkpoint."""
    deadline = time.monotonic() + 120
    while not list(folder.glob("step_*.ckpt")):
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.05)
    return work_processes()


LONG = {"steps": 100_000, "checkpoint_every": 5}


def test_a_killed_process_ends_the_training_with_its_own_error(blob_data, tmp_path):
    killed = []

    def kill():
        workers = ranks_that_train(tmp_path)
        rank = next(worker for worker in workers if worker.environ()["RANK"] == "1")
        killed.extend(workers)
        rank.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(RankError, match="process 1 of 2: was ended by SIGKILL"):
        several(blob_data, tmp_path, **LONG)
    thread.join()
    assert len(killed) == 2
    assert not any(alive(worker) for worker in killed)


PROGRAM = """
import json, sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(":")
from test_ranks import *
from mlml.data.dataset import PreparedData
several(PreparedData(Path(sys.argv[2])), Path(sys.argv[3]), **json.loads(sys.argv[4]))
"""


def begin(tmp_path, data, folder, numbers="{}", **environment):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    here = Path(__file__).parent
    command = [sys.executable, str(program), f"{here}:{Path.cwd()}", str(data.folder), str(folder), numbers]
    return subprocess.Popen(command, env=os.environ | environment)


def test_no_process_outlives_the_one_that_started_them_and_the_next_goes_on(blob_data, tmp_path):
    folder = tmp_path / "run"
    numbers = {"checkpoint_every": 5, "schedule": {"name": "constant"}}
    process = begin(tmp_path, blob_data, folder, json.dumps({**numbers, "steps": 100_000}))
    workers = ranks_that_train(folder)
    assert len(workers) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "a rank goes on"
        time.sleep(0.05)
    step = max(int(path.stem.removeprefix("step_")) for path in folder.glob("step_*.ckpt"))
    told = []
    steps = step + 20
    found = several(blob_data, folder, lambda at, metrics: told.append(at), steps=steps, **numbers)
    assert min(told) > step  # what was done is not done again
    assert_near(found, several(blob_data, tmp_path / "whole", steps=steps, **numbers))


def test_two_machines_train_as_one_process(blob_data, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    machines = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
    folder = tmp_path / "run"
    first = begin(tmp_path, blob_data, folder, '{"processes": 1}', **machines, PET_NODE_RANK="0")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "-m", "mlml.ranks"]
    other = subprocess.Popen(command, env=os.environ | machines | {"PET_NODE_RANK": "1", "OMP_NUM_THREADS": "1"})
    try:
        assert first.wait(180) == 0
        assert other.wait(60) == 0
    finally:
        for process in (first, other):
            process.kill()
            process.wait()
    trained = model_folder.load(folder / "trained")
    expected = one(blob_data, tmp_path / "one")[0]
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[key], value, rtol=1e-3, atol=1e-4, msg=key)
