"""Every method of one phase trains as well with its parameters cut among processes (`train.shard`)."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from blobs import write_prepared
from test_methods import TRAINED, base_of, batches, channels, entry
from torch import nn

from mlml import catalogue, distributed, model_folder
from mlml.data.dataset import PreparedData
from mlml.declaration import resolve
from mlml.optimizers import OPTIMIZERS
from mlml.seeds import seed_everything
from mlml.train import fit


class Case(NamedTuple):
    """What is trained: a method with its smallest network or another, by an optimizer."""

    family: str
    name: str
    encoder: dict | None = None
    optimizer: str = "sgd"

    def __str__(self):
        return f"{self.name} {'' if self.encoder is None else self.encoder['network']} {self.optimizer}"


UNET = {"network": "unet", "width": 4, "num_stages": 2}
CNN = {"network": "cnn", "width": 4, "num_stages": 2, "activation": "gelu"}
PHASES = {(family, name): len(set(catalogue.method_class(family, name).phases)) for family, name in TRAINED}
REFUSED = [
    *((family, name, {}) for (family, name), count in PHASES.items() if count > 1),
    ("pretext", "inpainting", {"adversarial_weight": 0.5}),
]
CASES = [
    *(Case(*key) for key, count in PHASES.items() if count == 1),
    *(Case("pretext", name, UNET) for name in ("colorization", "inpainting")),  # which then tell of pixels
    *(Case("pretext", name, CNN) for name in ("moco", "byol")),  # teachers with batch norms
    *(Case("supervised", "classifier", None, name) for name in OPTIMIZERS if name != "sgd"),
]
# an average moves right after an evaluation at step 1, a run that stops in step 3 goes on from step 2
TRAIN = {"steps": 3, "evaluate_every": 1, "checkpoint_every": 2, "log_every": 1, "ema_decay": 0.5, "accumulate": 1}
RATES = {"sgd": 0.05, "lars": 0.5}


def train(case, data, folder, shard, watch=None):
    """The trained method and its metrics; cut among the processes of a group, or in this one."""
    optimizer = {"name": case.optimizer, "learning_rate": RATES.get(case.optimizer, 0.003)}
    declared = entry(case.family, case.name, **TRAIN, shard=shard, optimizer=optimizer)
    if case.encoder is not None:
        declared["encoder"] = case.encoder
    config = resolve(case.family, case.name, declared).config
    base = base_of(case.family, case.name, data)
    seed_everything(0, "init")
    method = model_folder.build(case.family, case.name, config, data.spec, base)
    parts = (distributed.rank(), distributed.world_size())
    splits = [
        batches(data, "train", 0, *parts, method.targets),
        batches(data, "validation", targets=method.targets),
    ]
    return method, fit(method, *splits, config.train, 0, folder, watch).metrics


class Stopped(BaseException):
    """What ends a training within."""


def stop(step, metrics):
    if step == 3:
        raise Stopped


class Told(nn.Module):
    """A network with a layer that no list holds, which is asked past `forward`."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3, padding=1)

    def dense(self, images):
        return self.layer(images)


class Asking(nn.Module):
    """A model that asks it, and has a parameter of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.head, self.scale = Told(), nn.Conv2d(3, 1, 1), nn.Parameter(torch.ones(1, 1))

    def forward(self, images):
        return (self.head(self.encoder.dense(images)).square() * self.scale).mean()


def gradients_of(model):
    model(torch.linspace(0, 1, 64).view(1, 1, 8, 8)).backward()
    return {key: parameter.grad for key, parameter in model.named_parameters()}


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(":")
import torch
torch.set_num_threads(1)
from test_sharding import *
from mlml import sharding
distributed.start()
out = Path(sys.argv[2])
def keep(content, name):
    content = sharding.whole(content)
    if distributed.rank() == 0:
        torch.save(content, out / f"{name}.pt")
for case in CASES:
    data = PreparedData(out / f"blobs_{channels(case.name)}")
    try:
        train(case, data, out / str(case), True, stop)
    except Stopped:
        pass
    method, metrics = train(case, data, out / str(case), True)
    keep({"weights": method.state_dict(), "metrics": metrics}, case)
    cut = {key: tuple(value.to_local().shape) for key, value in method.named_parameters()}
    keep(cut, f"{case} parts")
model = Asking()
sharding.shard(model, torch.device("cpu"))
keep(gradients_of(model), "asked")
data = PreparedData(out / "blobs_1")
for family, name, numbers in REFUSED:
    config = resolve(family, name, {**entry(family, name, shard=True), **numbers}).config
    method = model_folder.build(family, name, config, data.spec)
    try:
        fit(method, batches(data, "train", 0, distributed.rank(), 2), batches(data, "validation"), config.train, 0,
            out / "refused" / name)
    except ValueError as error:
        keep(str(error), f"{name} refused")
distributed.stop()
"""


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """Folder in which one pair of processes has trained each case, stopped once and resumed."""
    folder = tmp_path_factory.mktemp("cut")
    for number in (1, 3):
        write_prepared(folder / f"blobs_{number}", number)
    program = folder / "program.py"
    program.write_text(PROGRAM)
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(program), f"{here}:{here.parent}:{Path.cwd()}", str(folder)],
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cut_among_two_processes_it_comes_to_the_result_of_one(case, cut, tmp_path):
    data = PreparedData(cut / f"blobs_{channels(case.name)}")
    whole, metrics = train(case, data, tmp_path, False)
    found = torch.load(cut / f"{case}.pt")
    base = base_of(case.family, case.name, data)
    seed_everything(0, "init")
    untrained = model_folder.build(case.family, case.name, whole.config, data.spec, base).state_dict()
    for key, value in whole.state_dict().items():
        moved = (value - untrained[key]).double().norm()
        assert (value - found["weights"][key]).double().norm() <= max(1e-3 * moved, 1e-6), key
    assert found["metrics"] == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    parts = torch.load(cut / f"{case} parts.pt")
    for key, value in whole.named_parameters():  # a teacher's as well: rank 0 holds the first half
        assert parts[key] == (-(-len(value) // 2), *value.shape[1:]), key


def test_a_network_is_put_together_for_what_is_asked_past_forward(cut):
    for key, value in torch.load(cut / "asked.pt").items():
        torch.testing.assert_close(value, gradients_of(Asking())[key], rtol=1e-4, atol=1e-7, msg=key)


@pytest.mark.parametrize(("family", "name", "numbers"), REFUSED)
def test_a_method_of_several_phases_is_refused_before_it_trains(family, name, numbers, cut):
    phases = "critic, generator" if name == "wgan_gp" else "discriminator, generator"
    assert torch.load(cut / f"{name} refused.pt") == (
        "train.shard: needs train.processes of at least 2, and a method of one phase; got 2, and of "
        f"{catalogue.method_class(family, name).__name__} the phases {phases}; set train.shard to false"
    )
    assert not (cut / "refused").exists()
