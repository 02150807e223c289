"""A trial that an evaluation judges: what the search is told is what that measures of what the trial trained."""

import copy
import json
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from mlml import catalogue, declaration, metrics, model_folder
from mlml.config import overridden
from mlml.data.batches import as_float
from mlml.data.dataset import PreparedData
from mlml.data.prepare import prepare
from mlml.evaluations._subject import Extractor, as_saved, in_parts
from mlml.search._study import run_study
from mlml.seeds import generator as seeded
from stages._training import MODELS, train
from stages._trials import Trials
from stages.prepare import PREPARED

CPU = torch.device("cpu")
SMALL = {
    "dataset": "digits",
    "encoder": {"network": "mlp", "hidden_widths": [16]},
    "train": {"steps": 20, "batch_size": 64, "evaluate_every": 10},
}
LOOKS = {"generator": "vae", "extractor": "classifier", "dataset": "digits", "seeds": [3, 4]}
CONTENT = {
    "threads": torch.get_num_threads(),
    "data": {"digits": {"source": "digits"}},
    "supervised": {"classifier": {"method": "classifier", **SMALL}},
    "pretext": {},
    "generative": {"vae": {"method": "vae", "latent_dim": 4, "seeds": [3, 4], **SMALL}},
    "probe": {},
    "evaluation": {
        "samples": {"method": "sample_quality", **LOOKS},
        "again": {"method": "reconstruction_quality", "window": 5, **LOOKS},
    },
    "search": {
        "rate": {
            "method": "random",
            "experiment": "vae",
            "dataset": "digits",
            "space": {"train.optimizer.learning_rate": {"type": "float", "low": 0.001, "high": 0.1, "log": True}},
            "trials": 3,
            "seeds": [3, 4],
        }
    },
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The working directory of a project in which the extractor is trained, and its data."""
    monkeypatch.chdir(tmp_path)
    prepare("digits", catalogue.config_class("data/sources", "digits")(), "digits", 0.1, 0.2, PREPARED / "digits")
    data = PreparedData(PREPARED / "digits")
    entry = declaration.resolve("supervised", "classifier", CONTENT["supervised"]["classifier"])
    method, _ = train(entry, data, 0, tmp_path / "runs" / "classifier", CPU)
    model_folder.save(MODELS / "classifier" / "seed_0", "supervised", "classifier", method)
    return data


def fid(vae, extractor, images, seed):
    draws = seeded(CPU, seed, "evaluation")
    with torch.no_grad():
        drawn = as_saved(in_parts(len(images), lambda count: vae.sample(count, draws)))
    return metrics.fid(extractor.see(images).features, extractor.see(drawn).features)


def squared_error(vae, extractor, images, seed):
    with torch.no_grad():
        return float(((images.double() - vae.reconstruct(images).double()) ** 2).mean())


@pytest.mark.parametrize(
    ("objective", "measure", "by_hand"), [("samples", "fid", fid), ("again", "mse", squared_error)]
)
def test_an_evaluation_judges_what_a_trial_trained_on_validation(objective, measure, by_hand, data, tmp_path):
    content = copy.deepcopy(CONTENT)
    content["search"]["rate"] |= {"objective": objective, "metric": f"validation/{measure}"}
    declared = declaration.check(content)
    opened = {}

    def open_run(label, values, tags):
        opened[label] = MagicMock(folder=tmp_path / "runs" / label)
        return opened[label]

    trials = Trials(declared, "rate", tmp_path / "runs", CPU, open_run)
    records = run_study(trials.config, trials.sampler, trials.study, trials, trials.seed)
    assert [record.state for record in records] == ["complete"] * 3, [record.failure for record in records]

    saved = json.loads((MODELS / "classifier/seed_0/model.json").read_text())
    extractor = Extractor("classifier", model_folder.load(MODELS / "classifier/seed_0"), saved["weights_sha256"])
    target = declared.experiments["vae"]
    for record in records:
        entry = declaration.resolve("generative", "vae", overridden(target.raw, record.parameters))
        found = {"validation": [], "test": []}
        for seed in (3, 4):
            vae, _ = train(entry, data, seed, tmp_path / "by_hand" / f"{record.number}_{seed}", CPU)
            for split, values in found.items():
                images = as_float(torch.from_numpy(np.array(data.split(split).images)))
                values.append(by_hand(vae.eval(), extractor, images, seed))
        assert record.value == pytest.approx(np.mean(found["validation"]), rel=1e-5)
        assert record.value != pytest.approx(np.mean(found["test"]), rel=1e-4)
        opened[f"trial_{record.number:04d}"].log.assert_called_once_with("objective", record.value)
    assert len({record.value for record in records}) == 3
