"""Images that a generator draws while it is trained."""

import numpy as np
import pytest
import torch

from mlml import model_folder, snapshots
from mlml.data.batches import split_batches
from mlml.seeds import generator, seed_everything
from mlml.snapshots import MAX_TIMES, NUM_IMAGES, Snapshots
from mlml.train import fit

CPU = torch.device("cpu")
NUMBERS = {"steps": 10, "batch_size": 16, "evaluate_every": 4, "checkpoint_every": 3, "ema_decay": 0.5}


class Drawing(torch.nn.Module):
    def sample(self, num_samples, generator):
        assert not self.training
        return torch.rand(num_samples, 1, 4, 4, generator=generator)


def times(steps, evaluate_every):
    kept = Snapshots(steps, evaluate_every)
    for step in range(1, steps + 1):
        kept.take(step, Drawing(), CPU, 0)
    return list(kept.taken)


@pytest.mark.parametrize(
    ("steps", "evaluate_every", "expected"),
    [
        (10, 4, [4, 8, 10]),
        (3, 100, [3]),
        (1500, 100, [100, 300, 500, 700, 900, 1100, 1300, 1500]),
    ],
)
def test_they_are_of_a_few_evaluations_and_of_the_last(steps, evaluate_every, expected):
    assert times(steps, evaluate_every) == expected
    assert len(times(steps, evaluate_every)) <= MAX_TIMES


def test_each_has_the_same_noise(tmp_path):
    kept = Snapshots(10, 4)
    for step in (4, 8):
        kept.take(step, Drawing(), CPU, 0)
    kept.write(tmp_path)
    steps, images = snapshots.read(tmp_path)
    assert steps == [4, 8]
    np.testing.assert_array_equal(images[0], images[1])
    drawn = torch.rand(NUM_IMAGES, 1, 4, 4, generator=generator(CPU, 0, "snapshots"))
    np.testing.assert_allclose(images[0] / 255, drawn.numpy(), atol=0.5 / 255 + 1e-6)


def test_what_draws_nothing_leaves_nothing(tmp_path):
    kept = Snapshots(10, 4)
    kept.take(4, torch.nn.Identity(), CPU, 0)
    kept.write(tmp_path)
    assert snapshots.read(tmp_path) is None


def trained(data, folder, stop_at=None):
    numbers = {"encoder": {"network": "mlp", "hidden_widths": [8]}, "latent_dim": 3, "train": NUMBERS}
    seed_everything(0, "init")
    method = model_folder.build("generative", "vae", numbers, data.spec)
    splits = [split_batches(data, name, 16, 0, CPU) for name in ("train", "validation")]

    def stop(step, metrics):
        if step == stop_at:
            raise KeyboardInterrupt

    fit(method, *splits, method.config.train, 0, folder, stop)
    return method


def test_a_run_that_stopped_has_those_of_before_it_stopped(blob_data, tmp_path):
    trained(blob_data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(blob_data, tmp_path / "stopped", stop_at=8)
    assert snapshots.read(tmp_path / "stopped") is None
    trained(blob_data, tmp_path / "stopped")
    (steps, images), (again, others) = (snapshots.read(tmp_path / name) for name in ("whole", "stopped"))
    assert steps == again == [4, 8, 10]
    np.testing.assert_array_equal(images, others)
    assert not np.array_equal(images[0], images[2])


def test_the_last_are_of_the_averaged_weights(blob_data, tmp_path):
    method = trained(blob_data, tmp_path)
    with torch.no_grad():
        drawn = method.eval().sample(NUM_IMAGES, generator(CPU, 0, "snapshots"))
    np.testing.assert_array_equal(snapshots.read(tmp_path)[1][-1], (255 * drawn).round().to(torch.uint8))


def test_a_run_ends_the_same_without_them(blob_data, tmp_path, monkeypatch):
    with_them = trained(blob_data, tmp_path / "with").state_dict()
    monkeypatch.setattr(Snapshots, "take", lambda *_: None)
    without = trained(blob_data, tmp_path / "without").state_dict()
    assert all(torch.equal(value, without[name]) for name, value in with_them.items())
