import math

import numpy as np
import pytest
import torch
from blobs import write_prepared

from mlml import model_folder, online_knn, points
from mlml.config import DeclarationError, TrainConfig
from mlml.data.batches import split_batches
from mlml.declaration import resolve
from mlml.probes.linear import LinearHead
from mlml.seeds import seed_everything
from mlml.train import fit

CPU = torch.device("cpu")
ENCODER = {"network": "mlp", "hidden_widths": [16], "dropout_prob": 0.2}  # with batch norm


def run(data, folder, **numbers):
    train = {"steps": 8, "batch_size": 16, "log_every": 2, "evaluate_every": 4, "checkpoint_every": 3, **numbers}
    entry = {"method": "simclr", "dataset": "blobs", "encoder": ENCODER, "train": train}
    config = resolve("pretext", "simclr", entry).config
    seed_everything(0, "init")
    built = model_folder.build("pretext", "simclr", config, data.spec)
    splits = [split_batches(data, name, 16, 0, CPU) for name in ("train", "validation")]
    return built, fit(built, *splits, config.train, 0, folder), splits


def logged(folder):
    return [point for point in points.read(folder / "points.jsonl") if not point[0].startswith("system/")]


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_run_with_it_ends_bit_for_bit_as_without(blob_data, tmp_path, ema_decay):
    without, plain, _ = run(blob_data, tmp_path / "without", ema_decay=ema_decay)
    watched, found, _ = run(blob_data, tmp_path / "with", ema_decay=ema_decay, online_knn_every=3)
    for key, value in without.state_dict().items():
        assert torch.equal(value, watched.state_dict()[key]), key
    assert plain.metrics == found.metrics
    online = [point for point in logged(tmp_path / "with") if point[0] == "online/knn_accuracy"]
    assert [step for _, step, _ in online] == [3, 6]
    assert [point for point in logged(tmp_path / "with") if point[0] != "online/knn_accuracy"] == logged(
        tmp_path / "without"
    )


def slow_accuracy(method, data):
    """One validation image at a time, by the weights of its 20 nearest train images."""
    with torch.no_grad():
        bank, queries = (
            method.eval().encode(torch.from_numpy(data.split(name).images / np.float32(255))).double().numpy()
            for name in ("train", "validation")
        )
    labels, truth = data.split("train").labels, data.split("validation").labels
    correct = 0
    for query, true in zip(queries, truth, strict=True):
        cosines = [query @ row / np.linalg.norm(query) / np.linalg.norm(row) for row in bank]
        votes = np.zeros(4)
        for place in sorted(range(len(bank)), key=lambda k: -cosines[k])[:20]:
            votes[labels[place]] += math.exp(cosines[place] / 0.1)
        correct += votes.argmax() == true
    return correct / len(truth)


def test_it_is_the_vote_of_the_weights_of_its_step(blob_data, tmp_path):
    method, _, splits = run(blob_data, tmp_path, online_knn_every=8)
    [value] = [value for name, step, value in logged(tmp_path) if (name, step) == ("online/knn_accuracy", 8)]
    assert value == pytest.approx(slow_accuracy(method, blob_data))
    with torch.no_grad():
        method.encoder.layers[0].weight.zero_()
    assert online_knn.measure(method, *splits)["online/knn_accuracy"] != value


def test_a_large_split_votes_by_an_even_part(blob_data, tmp_path, monkeypatch):
    method, _, splits = run(blob_data, tmp_path)
    monkeypatch.setattr(online_knn, "BANK", 5)
    asked = []
    at = splits[0].at
    monkeypatch.setattr(splits[0], "at", lambda index: asked.extend(index.tolist()) or at(index))
    online_knn.measure(method, *splits)
    assert asked == [0, 24, 48, 71, 95]


def test_what_has_no_labels_or_no_encoder_is_refused(tmp_path, blob_data):
    unlabelled = write_prepared(tmp_path / "unlabelled" / "blobs", labelled=False)
    with pytest.raises(
        ValueError, match=r"train\.online_knn_every: needs labels of images, and these batches have none"
    ):
        run(unlabelled, tmp_path / "a", online_knn_every=3)
    splits = [split_batches(blob_data, name, 16, 0, CPU) for name in ("train", "validation")]
    with pytest.raises(ValueError, match="needs a method with an encoder; LinearHead has none"):
        fit(LinearHead(64, 4), *splits, TrainConfig(steps=3, online_knn_every=3), 0, tmp_path / "b")
    with pytest.raises(DeclarationError, match="online_knn_every must be null where shard is true"):
        run(blob_data, tmp_path / "c", online_knn_every=3, shard=True)
