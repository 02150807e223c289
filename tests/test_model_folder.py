import json
import subprocess
import sys

import pytest
import torch

import mlml
from mlml import model_folder
from mlml.model_folder import ModelError

CONFIG = {"encoder": {"network": "mlp", "hidden_widths": [4]}}


@pytest.fixture
def saved(blob_data, tmp_path):
    method = model_folder.build("pretext", "random", CONFIG, blob_data.spec)
    model_folder.save(tmp_path / "model", "pretext", "random", method)
    return tmp_path / "model"


def test_altered_weights_are_refused(saved):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"{path}: sha256 is \w+, but model.json says"):
        mlml.load(saved)


def test_a_missing_file_is_named(saved):
    (saved / "model.json").unlink()
    with pytest.raises(ModelError, match=r"model.json: does not exist; give the folder of one seed"):
        mlml.load(saved)


def test_the_bytes_are_a_function_of_weights_and_config(saved, tmp_path):
    model_folder.save(tmp_path / "again", "pretext", "random", mlml.load(saved))
    for name in ("model.json", "model.safetensors"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert json.loads((saved / "model.json").read_text())["config"]["encoder"]["hidden_widths"] == [4]


def test_a_composed_model_is_read_without_the_folder_of_its_base(blob_data, tmp_path):
    """Bit for bit, and through several models below it; its base can be had from it."""
    numbers = {"encoder": CONFIG["encoder"], "train": {"steps": 1}}
    encoder = {"network": "cnn", "width": 4, "num_stages": 2}
    classifier = model_folder.build("supervised", "classifier", {**numbers, "encoder": encoder}, blob_data.spec)
    below = model_folder.build("composed", "perceptual_vae", {**numbers, "base": "a"}, blob_data.spec, classifier)
    config = {"base": "b", "train": {"steps": 1}, "sampler": {"name": "ddim", "steps": 2}}
    method = model_folder.build("composed", "latent_diffusion", config, blob_data.spec, below).eval()
    model_folder.save(tmp_path / "model", "composed", "latent_diffusion", method)
    loaded = mlml.load(tmp_path / "model")
    assert list(loaded.state_dict()) == list(method.state_dict())
    assert all(torch.equal(value, method.state_dict()[key]) for key, value in loaded.state_dict().items())
    drawn = [each.sample(2, torch.Generator().manual_seed(0)) for each in (method, loaded)]
    assert torch.equal(*drawn)
    base = model_folder.base_of(tmp_path / "model")
    assert all(torch.equal(value, below.state_dict()[key]) for key, value in base.state_dict().items())
    description = json.loads((tmp_path / "model" / "model.json").read_text())["base"]
    assert (description["family"], description["method"]) == ("composed", "perceptual_vae")
    assert description["base"]["config"]["encoder"]["width"] == 4


PROGRAM = """
import sys, importlib.abc
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"dvc", "prefect", "mlflow", "optuna", "stages", "pipelines"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import pkgutil, importlib, pathlib, tempfile, torch
import mlml
for module in pkgutil.walk_packages(mlml.__path__, "mlml."):
    if not module.name.startswith("mlml.search."):
        importlib.import_module(module.name)
sys.path.insert(0, sys.argv[1])
from blobs import write_prepared
from mlml import model_folder
from mlml.data.batches import Batches
from mlml.train import fit
folder = pathlib.Path(tempfile.mkdtemp())
data = write_prepared(folder / "blobs")
config = {"encoder": {"network": "cnn", "width": 4}, "train": {"steps": 3, "batch_size": 16}}
method = model_folder.build("pretext", "simclr", config, data.spec)
train, validation = (Batches(*data.split(name)[:2], 16, 0, torch.device("cpu")) for name in ("train", "validation"))
fit(method, train, validation, method.config.train, 0, folder / "run")
model_folder.save(folder / "model", "pretext", "simclr", method)
assert mlml.load(folder / "model").encode(torch.rand(2, 1, 8, 8)).shape[0] == 2
print("trained")
"""


def test_the_library_works_without_dvc_prefect_mlflow_and_optuna(pytestconfig):
    command = [sys.executable, "-c", PROGRAM, str(pytestconfig.rootpath / "tests")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("trained\n"), done.stderr


def test_importing_the_package_does_not_import_torch():
    program = "import sys, mlml, mlml.declaration, mlml.tracking, mlml.catalogue; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert torch  # imported here
