"""Every probe leaves the encoder as it is, and knows no more labels than it may."""

import hashlib

import numpy as np
import pytest
import torch

from mlml import catalogue, model_folder
from mlml.seeds import seed_everything
from stages import _probing
from stages._probing import measure

CPU = torch.device("cpu")
TRAIN = {"steps": 3, "batch_size": 16}
NUMBERS = {
    "linear": {"train": TRAIN},
    "finetune": {"train": TRAIN, "learning_rates": (0.01,), "frozen_share": 0.0},
    "fewshot": {"num_ways": 3, "num_queries": 2, "num_episodes": 5},
}
PROBES = catalogue.names("probes")


def probe(name, **numbers):
    cls = catalogue.method_class("probes", name)
    return cls(cls.Config(encoder="e", **NUMBERS.get(name, {}), **numbers))


def save_encoder(data, folder):
    """A convolutional encoder with batch norms, whose running statistics are those of some batches."""
    seed_everything(0, "init")
    config = {"encoder": {"network": "cnn", "width": 4}}
    encoder = model_folder.build("pretext", "random", config, data.spec)
    with torch.no_grad():
        encoder.train().encode(torch.from_numpy(data.split("train").images / np.float32(255)))
    model_folder.save(folder, "pretext", "random", encoder)


@pytest.mark.parametrize("name", PROBES)
def test_no_probe_changes_the_encoder(name, blob_data, tmp_path):
    """Not its weights, not its batch norms; nor, where a copy is trained, the copy that was loaded."""
    save_encoder(blob_data, tmp_path / "model")
    files = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "model").iterdir()}
    encoder = model_folder.load(tmp_path / "model")
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert any(key.endswith("running_mean") for key in before)
    metrics = measure(probe(name), encoder, blob_data, 0, tmp_path / "run", CPU)
    assert metrics
    assert 0 <= metrics.get("test/accuracy", 0.0) <= 1
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not encoder.training
    assert files == {path.name: hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "model").iterdir()}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_measures_what_its_class_says(name, blob_data, tmp_path):
    save_encoder(blob_data, tmp_path / "model")
    found = measure(probe(name), model_folder.load(tmp_path / "model"), blob_data, 0, tmp_path / "run", CPU)
    splits = catalogue.class_constant("probes", name, "splits", ("validation", "test"))
    told = catalogue.class_constant("probes", name, "measures", None)
    assert {f"{split}/{measured}" for split in splits for measured in told} <= set(found)


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 4), (0.1, 8), (1.0, 96)])
def test_a_probe_of_features_sees_its_share_of_train_and_all_of_the_others(
    fraction, count, blob_data, tmp_path, monkeypatch
):
    save_encoder(blob_data, tmp_path / "model")
    seen = []
    knn = probe("knn", label_fraction=fraction)
    monkeypatch.setattr(knn, "evaluate", lambda features, seed, folder: seen.append(features) or {})
    measure(knn, model_folder.load(tmp_path / "model"), blob_data, 0, tmp_path, CPU)
    [features] = seen
    assert [len(part.labels) for part in features[:3]] == [count, 24, 24]
    assert torch.bincount(features.train.labels).tolist() == [count // 4] * 4


def test_a_probe_of_images_sees_its_share_of_train_too(blob_data, tmp_path, monkeypatch):
    save_encoder(blob_data, tmp_path / "model")
    seen = []
    tuned = probe("finetune", label_fraction=0.1)
    monkeypatch.setattr(tuned, "evaluate", lambda encoder, data, *_: seen.append(data) or {})
    monkeypatch.setattr(_probing, "extract", None)  # features are not computed
    measure(tuned, model_folder.load(tmp_path / "model"), blob_data, 0, tmp_path, CPU)
    assert [len(seen[0].split(name).labels) for name in ("train", "validation", "test")] == [8, 24, 24]


def test_every_probe_that_reads_train_labels_says_of_how_many():
    without = {name for name in PROBES if "label_fraction" not in catalogue.config_class("probes", name).model_fields}
    assert without == {"fewshot", "health"}  # their images are of the test split
