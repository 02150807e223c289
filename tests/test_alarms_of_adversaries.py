"""Alarms of two players: on series made by hand, and on runs made to be ill."""

import logging

import pytest
import torch
from torch import nn

from mlml import alarms, checkpoint, diagnostics, model_folder, points
from mlml.config import TrainConfig
from mlml.data.batches import Batches, split_batches
from mlml.declaration import resolve
from mlml.diagnostics import Record
from mlml.method import Method, Output
from mlml.seeds import seed_everything
from mlml.train import fit

CPU = torch.device("cpu")


def record(**curves):
    """A run of such curves, named player_metric."""
    named = {name.replace("_", "/"): values for name, values in curves.items()}
    return Record(
        {}, {name: [(20 * (k + 1), value) for k, value in enumerate(values)] for name, values in named.items()}
    )


HEALTHY = {
    "generator_diversity": [0.3, 0.5, 0.8, 0.9, 0.9, 1.0, 0.9, 1.0],
    "discriminator_accuracy": [0.6, 0.9, 0.8, 0.8, 0.85, 0.8, 0.9, 0.9],
    "discriminator_margin": [0.2, 1.0, 2.0, 3.0, 3.0, 3.0, 3.5, 4.0],
}


@pytest.mark.parametrize(
    ("ill", "kind"),
    [
        ({}, None),
        ({"generator_diversity": [0.4, 0.8, 0.7, 0.3, 0.2, 0.1, 0.05, 0.05]}, "mode collapse"),
        ({"generator_diversity": [0.05] * 8}, None),  # it has not fallen, and may yet rise
        ({"generator_diversity": [0.05] * 20}, "mode collapse"),
        ({"generator_diversity": [0.8, 0.8, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9]}, None),  # only the end counts
        ({"generator_diversity": [0.8, 0.0, 0.0, 0.0, 0.0]}, None),  # too few to tell
        (
            {"discriminator_accuracy": [0.7] + [1.0] * 7, "discriminator_margin": [1, 5] + [20.0] * 6},
            "discriminator saturation",
        ),
        ({"discriminator_accuracy": [0.7] + [1.0] * 7}, None),  # it is right, but no sigmoid is at its bound
        ({"discriminator_margin": [1.0, 2.0, 3.0, 5.0, 20.0, 90.0, 400.0, 2000.0]}, "diverging players"),
        ({"critic_margin": [50.0, 30.0, 9.0, 9.0, 9.0, 8.0, 8.0, 8.0]}, None),
        ({"critic_margin": [1.0, 2.0, 3.0, 5.0, 20.0, -90.0, -400.0, -2000.0]}, "diverging players"),
        ({"critic_margin": [300.0, 250.0, 200.0, 190.0, 180.0, 170.0, 160.0, 150.0]}, None),  # of large images
    ],
)
def test_verdicts_of_series(ill, kind):
    verdicts = alarms.of_adversaries(record(**{**HEALTHY, **ill}))
    assert [verdict.kind for verdict in verdicts] == [kind] * (kind is not None)
    assert verdicts == diagnostics.diagnose(record(**{**HEALTHY, **ill}))


def test_other_methods_have_no_such_alarm():
    assert alarms.of_adversaries(Record({}, {})) == []


def test_all_that_is_judged_is_watched():
    ill = {
        "generator_diversity": [0.8] + [0.0] * 7,
        "discriminator_margin": [1.0] * 4 + [1e5] * 4,
        "discriminator_accuracy": [1.0] * 8,
        "critic_margin": [1.0] * 4 + [1e5] * 4,
    }
    assert set(record(**ill).curves) == {name for name in alarms.WATCHED if not name.startswith("validation/")}


class Fading(Method):
    """Two layers that learn nothing of use, while a made-up diversity falls from a step on."""

    phases = ("discriminator", "generator")

    def __init__(self, falls_at: int) -> None:
        nn.Module.__init__(self)
        self.discriminator, self.generator = nn.Linear(3, 1), nn.Linear(3, 1)
        self.register_buffer("steps", torch.zeros(()))
        self.falls_at = falls_at

    def phase_parameters(self, phase):
        return (self.discriminator if phase == "discriminator" else self.generator).parameters()

    def forward(self, batch, phase):
        layer = self.discriminator if phase == "discriminator" else self.generator
        diversity = torch.where(self.steps < self.falls_at, 1.0, 0.01)
        return Output(layer(batch.images).square().mean(), {"diversity": diversity} if phase == "generator" else {})

    def after_step(self, progress):
        self.steps += 1


def fade(folder, falls_at=10, watch=None, **numbers):
    """A run of at most 60 steps, whose diversity is too low from step 13 or so on, by the median of a quarter."""
    torch.manual_seed(0)
    images = torch.randn(32, 3).numpy()
    config = {"steps": 60, "batch_size": 8, "log_every": 1, "evaluate_every": 3, "checkpoint_every": 4, **numbers}
    method = Fading(falls_at)
    splits = [Batches(images, None, 8, 0, CPU) for _ in "ab"]
    return method, fit(method, *splits, TrainConfig.model_validate(config), 0, folder, watch)


def test_a_warning_is_said_once_and_the_run_goes_on(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        _, fitted = fade(tmp_path)
    assert fitted.steps == 60
    assert [message for message in caplog.messages if "mode collapse" in message] == caplog.messages
    assert len(caplog.messages) == 1


def test_a_lasting_alarm_ends_the_run_with_the_weights_from_before_it(tmp_path):
    method, fitted = fade(tmp_path / "stopped", on_alarm="stop")
    heard = fitted.steps - 3 * (alarms.LASTING - 1)  # the first evaluation with an alarm
    assert 10 < heard < fitted.steps < 60
    before, told = fade(tmp_path / "before", steps=heard - 3, schedule={"name": "constant"}), fitted.metrics
    again, _ = fade(tmp_path / "again", on_alarm="stop", schedule={"name": "constant"})
    for key, value in before[0].state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert int(method.steps) == heard - 3
    assert told["validation/diversity"] == (1.0 if heard - 3 < 10 else pytest.approx(0.01))


def test_a_passing_alarm_ends_nothing(tmp_path):
    _, fitted = fade(tmp_path, falls_at=1000, on_alarm="stop")
    assert fitted.steps == 60


@pytest.mark.parametrize("stop_at", [6, 12, 15])
def test_an_alarm_survives_a_stop(tmp_path, stop_at):
    class Stopped(BaseException):
        pass

    def stop(step, metrics):
        if step == stop_at:
            raise Stopped

    whole, fitted = fade(tmp_path / "whole", on_alarm="stop")
    assert stop_at < fitted.steps
    with pytest.raises(Stopped):
        fade(tmp_path / "parts", watch=stop, on_alarm="stop")
    resumed, again = fade(tmp_path / "parts", on_alarm="stop")
    assert (fitted.steps, fitted.metrics) == (again.steps, again.metrics)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert checkpoint.load_newest(tmp_path / "parts", CPU)["watch"]["lost"]


def test_two_ways_of_keeping_weights_are_refused():
    with pytest.raises(ValueError, match="restore_best must be false where on_alarm is 'stop'"):
        TrainConfig.model_validate({"steps": 1, "on_alarm": "stop", "restore_best": True})


def play(data, folder, **numbers):
    """What a small GAN of easy blobs records."""
    train = {"steps": 100, "batch_size": 32, "log_every": 5, "evaluate_every": 50, **numbers.pop("train", {})}
    train = {"optimizer": {"name": "adam", "learning_rate": 0.001, "beta1": 0.5}, "diagnose_every": None, **train}
    entry = {"method": "gan", "dataset": "blobs", "latent_dim": 8, "generator_width": 8, "discriminator_width": 8}
    config = resolve("generative", "g", {**entry, **numbers, "train": train}).config
    seed_everything(0, "init")
    method = model_folder.build("generative", "gan", config, data.spec)
    fit(method, *[split_batches(data, name, 32, 0, CPU) for name in ("train", "validation")], config.train, 0, folder)
    assert points.read(folder / "points.jsonl")
    return diagnostics.read(folder / "points.jsonl")


def test_a_healthy_gan_has_no_alarm(blob_data, tmp_path):
    assert alarms.of_adversaries(play(blob_data, tmp_path)) == []


def test_a_generator_that_learns_too_fast_collapses_and_is_heard(blob_data, tmp_path):
    found = alarms.of_adversaries(play(blob_data, tmp_path, generator_rate=1000.0))
    assert "mode collapse" in {verdict.kind for verdict in found}
