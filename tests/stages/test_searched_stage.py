"""The stage of what a search found: it leaves, bit for bit, what the family's own stage leaves of the same values."""

import hashlib
import json
import shutil
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from blobs import write_prepared

from mlml import declaration, model_folder
from stages import composed, generative, pretext, searched, supervised
from stages._studying import of_length
from stages._training import as_trained
from stages.prepare import PREPARED

TRAIN = {"steps": 4, "batch_size": 32, "log_every": 2, "evaluate_every": 2, "optimizer": {"name": "adamw"}}
SMALL = {"dataset": "blobs", "encoder": {"network": "mlp", "hidden_widths": [8]}, "train": TRAIN}
TWO = {"seeds": [0, 1]}
LATENT = {"base": "vae", "denoiser": {"width": 8, "num_blocks": 1}, "sampler": {"name": "ddim", "steps": 2}}
PLAIN = {
    "supervised": {"classifier": {"method": "classifier", **SMALL, **TWO, "augment": {"padding": 0}}},
    "pretext": {"simclr": {"method": "simclr", **SMALL, **TWO}},
    "generative": {"vae": {"method": "vae", **SMALL, **TWO, "latent_dim": 3}},
    "composed": {"latent": {"method": "latent_diffusion", "dataset": "blobs", "train": TRAIN, **TWO, **LATENT}},
}
RATE = "  train: {optimizer: {learning_rate: 0.0125, name: sgd}}\n"
WORK = {"supervised": supervised, "pretext": pretext, "generative": generative, "composed": composed}


def declared(family: str, name: str):
    """All of them, and a searched one that is called "found"."""
    dimension = {"type": "float", "low": 0.001, "high": 0.1}
    search = {"method": "random", "experiment": name, "objective": name, "dataset": "blobs"}
    content = {
        "threads": torch.get_num_threads(),
        "data": {"blobs": {"source": "digits"}},
        **PLAIN,
        "probe": {},
        "search": {"rate": {**search, "space": {"train.optimizer.learning_rate": dimension}}},
        "searched": {"found": {"experiment": name, "from_search": "rate", "dataset": "blobs", "seeds": [1]}},
    }
    return declaration.check(content)


def run(module, declared, name, folder):
    """Run a stage in the working directory; returns what it wrote, with the sha256 of it."""
    before = written()
    stage = MagicMock(declaration=declared, tags={}, at_end=[])
    stage.name = name
    stage.nested_run.side_effect = lambda label, *_, **__: MagicMock(folder=folder / name / label)
    stage.steps.run.side_effect = lambda label, work: work()
    module.work(stage)
    return stage, {path: digest for path, digest in written().items() if path not in before}


def written() -> dict[str, str]:
    files = [path for top in ("models", "reports") for path in Path(top).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Run what the search found, and, in another folder, the same values declared by hand."""

    def both(family, name):
        outputs = {}
        for place in ("searched", "by_hand"):
            folder = tmp_path / place
            write_prepared(folder / PREPARED / "blobs")
            monkeypatch.chdir(folder)
            checked = declared(family, name)
            if family == "composed":
                run(generative, checked, "vae", folder / "runs")
            run(WORK[family], checked, name, folder / "runs")
            Path("reports/search/rate").mkdir(parents=True)
            Path("reports/search/rate/best.yaml").write_text(f"overrides:\n{RATE}")
            module = searched
            if place == "searched" and family == "composed":
                shutil.rmtree("models/vae")  # its stage waits for what was searched, whose folders hold the base
            if place == "by_hand":
                module = WORK[family]
                optimizer = {"name": "sgd", "learning_rate": 0.0125}
                entry = {**PLAIN[family][name], "seeds": [1], "train": {**TRAIN, "optimizer": optimizer}}
                checked.experiments["found"] = declaration.resolve(family, "found", entry)
            outputs[place] = run(module, checked, "found", folder / "runs")
        monkeypatch.chdir(tmp_path / "searched")
        return outputs["searched"], outputs["by_hand"][1]

    return both


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in PLAIN for name in PLAIN[family]])
def test_it_leaves_what_the_family_s_stage_leaves(family, name, found):
    (stage, outputs), expected = found(family, name)
    assert outputs == expected
    wanted = {"models/found/seed_1/model.safetensors", "reports/metrics/found.json", "reports/curves/found.csv"}
    assert wanted | {"reports/diagnostics/found.json"} <= set(outputs)
    pictured = any(path.startswith("reports/figures/found/seed_1_") for path in outputs)
    assert pictured == (family != "pretext")  # simclr has nothing to show
    assert Path("reports/figures/found").is_dir()
    weights = written()
    assert weights["models/found/seed_1/model.safetensors"] != weights[f"models/{name}/seed_1/model.safetensors"]
    description = json.loads(Path("models/found/seed_1/model.json").read_text())
    assert (description["family"], description["method"]) == (family, PLAIN[family][name]["method"])
    assert description["config"]["train"]["optimizer"]["learning_rate"] == 0.0125
    assert model_folder.load("models/found/seed_1").config.train.optimizer.name == "sgd"
    told = stage.nested_run.call_args.args[1]
    assert told["train"]["optimizer"]["learning_rate"] == 0.0125
    assert stage.tags["mlml.search"] == "rate"


def test_a_study_has_the_numbers_that_were_found(found):
    """Its own declaration does not have them: the search is not what it waits for."""
    found("supervised", "classifier")
    experiment = declared("supervised", "classifier").experiments["found"]
    trained = as_trained(experiment)
    assert experiment.config.train.optimizer.name == "adamw"
    assert trained.config.model_dump() == model_folder.load("models/found/seed_1").config.model_dump()
    assert (trained.section, trained.seeds) == ("searched", (1,))
    longer = of_length(trained, 9).config.train
    assert (longer.steps, longer.optimizer) == (9, trained.config.train.optimizer)
