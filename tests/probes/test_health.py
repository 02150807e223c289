import numpy as np
import pytest
import torch
from blobs import write_prepared
from PIL import Image

from mlml import model_folder, representation
from mlml import representation_figures as figures
from mlml.declaration import resolve
from mlml.probes.health import Health

CPU = torch.device("cpu")


@pytest.fixture
def encoder_and_data(tmp_path):
    data = write_prepared(tmp_path / "blobs")
    entry = {"method": "random", "dataset": "blobs", "encoder": {"network": "cnn", "width": 8}}
    torch.manual_seed(0)
    method = model_folder.build("pretext", "random", resolve("pretext", "random", entry).config, data.spec)
    return method.eval().requires_grad_(False), data


def test_numbers_and_pictures_of_an_encoder(encoder_and_data, tmp_path):
    encoder, data = encoder_and_data
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    probe = Health(Health.Config(encoder="random", num_images=20, num_neighbours=3, num_queries=4))
    metrics = probe.evaluate(encoder, data, 0, tmp_path, CPU)
    images = torch.from_numpy(np.array(data.split("test").images))
    spread = torch.linspace(0, len(images) - 1, 20, dtype=torch.float64).round().long()
    features = encoder.encode(images[spread].float() / 255)
    assert metrics["test/effective_rank"] == pytest.approx(float(representation.effective_rank(features)), rel=1e-5)
    assert set(metrics) == {f"test/{name}" for name in Health.measures}
    sizes = {}
    for name in ("maps", "neighbours", "density", "outliers"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            sizes[name] = picture.size
    assert sizes["neighbours"][1] > sizes["outliers"][1]  # four rows against two
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert probe.evaluate(encoder, data, 0, tmp_path, CPU) == metrics


@pytest.mark.parametrize("kind", ["pca", "tsne", "umap"])
def test_a_map_keeps_clusters_apart_and_repeats(kind):
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3) * 20, 20, axis=0)
    points = figures.mapped(centres + rng.normal(size=(60, 3)), kind, 5)
    assert points.shape == (60, 2)
    within = max(np.ptp(points[start : start + 20], axis=0).max() for start in (0, 20, 40))
    means = [points[start : start + 20].mean(0) for start in (0, 20, 40)]
    between = min(np.linalg.norm(means[i] - means[j]) for i in range(3) for j in range(i))
    assert between > within / 2
    again = figures.mapped(centres + np.random.default_rng(0).normal(size=(60, 3)), kind, 5)
    assert np.array_equal(points, again)


def test_outliers_come_first(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(figures, "write_sheet", lambda rows, path: shown.update(rows))
    images = np.arange(30.0).reshape(30, 1, 1, 1) / 30
    scores = np.zeros(30)
    scores[[4, 9]] = 2.0, 1.0
    figures.write_outliers(images, scores, tmp_path / "x.png")
    assert shown["outliers"][:2].ravel().tolist() == [4 / 30, 9 / 30]
    assert not {4 / 30, 9 / 30} & set(shown["typical"].ravel().tolist())
    figures.write_neighbours(images, ["a"] * 30, np.array([7]), np.tile([3, 1], (30, 1)), tmp_path / "y.png")
    assert shown["1: a"].ravel().tolist() == [7 / 30, 3 / 30, 1 / 30]
