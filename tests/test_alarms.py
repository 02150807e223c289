"""Alarms of generative methods: on series made by hand, and on runs made to have the illness."""

import pytest
import torch
from blobs import write_prepared

from mlml import alarms, diagnostics, model_folder
from mlml.alarm_watch import AlarmWatch
from mlml.data.batches import split_batches
from mlml.declaration import resolve
from mlml.diagnostics import Record
from mlml.generative.ddpm import DDPM
from mlml.seeds import seed_everything
from mlml.train import fit


def latents(*active, dims):
    return Record(
        {},
        {
            "validation/active_dimensions": [(10 * k, value) for k, value in enumerate(active)],
            "validation/collapsed_dimensions": [(10 * k, dims - value) for k, value in enumerate(active)],
        },
    )


@pytest.mark.parametrize(
    ("active", "dims", "collapsed"),
    [
        ((16.0, 0.0), 16, True),
        ((16.0, 1.0), 16, True),
        ((0.0, 2.0), 50, False),  # few are left, but an image is told of
        ((0.0, 16.0), 16, False),  # only the end counts
        ((1.0, 1.0), 2, False),
        ((1.0, 1.0), 9, False),
        ((1.0, 1.0), 1, False),
        ((1.0, 0.0), 1, True),
        ((25.0,), 50, False),
    ],
)
def test_posterior_collapse_is_that_nearly_no_dimension_is_active(active, dims, collapsed):
    verdicts = alarms.of_latents(latents(*active, dims=dims))
    assert [verdict.kind for verdict in verdicts] == ["posterior collapse"] * collapsed
    assert verdicts == diagnostics.diagnose(latents(*active, dims=dims))
    for verdict in verdicts:
        assert f"{dims - active[-1]:.0f} of {dims} latent dimensions" in verdict.sentence


def test_without_latents_there_is_no_such_alarm():
    assert alarms.of_latents(Record({}, {})) == []


@pytest.mark.parametrize(
    ("name", "beta", "collapsed"),
    [
        ("vae", 1.0, False),
        ("vae", 500.0, True),
        ("conditional_vae", 0.1, False),
        ("conditional_vae", 1.0, True),  # the class tells all of a blob but its noise, which is not worth a nat
        ("conditional_vae", 500.0, True),
    ],
)
def test_a_large_beta_collapses_the_posterior_and_a_small_one_does_not(tmp_path, name, beta, collapsed):
    data = write_prepared(tmp_path / "blobs")
    entry = {
        "method": name,
        "dataset": "blobs",
        "encoder": {"network": "mlp", "hidden_widths": [16]},
        "latent_dim": 4,
        "decoder_width": 8,
        "beta": beta,
        "train": {"steps": 60, "batch_size": 32, "optimizer": {"name": "adamw", "learning_rate": 0.01}},
    }
    experiment = resolve("generative", name, entry)
    seed_everything(0, "init")
    method = model_folder.build("generative", name, experiment.config, data.spec)
    splits = [split_batches(data, split, 32, 0, torch.device("cpu")) for split in ("train", "validation")]
    fit(method, *splits, method.config.train, 0, tmp_path)
    record = diagnostics.read(tmp_path / "points.jsonl")
    kinds = [verdict.kind for verdict in diagnostics.diagnose(record)]
    assert ("posterior collapse" in kinds) == collapsed


def test_a_posterior_may_be_collapsed_at_first_but_not_for_ever():
    watch, weights = AlarmWatch(stops=True), {"w": torch.zeros(1)}
    ended = []
    for step in range(1, 10):
        watch.note(step, {"validation/active_dimensions": 0.0, "validation/collapsed_dimensions": 16.0})
        ended.append(watch.listen(step, weights, {}))
    assert ended == [False] * 7 + [True] * 2  # heard from the sixth evaluation on, and three in a row


def timesteps(**bins):
    return Record(
        {},
        {
            f"validation/loss/{name}": [(10 * (k + 1), value) for k, value in enumerate(values)]
            for name, values in bins.items()
        },
    )


FALLING = [1.0, 0.8, 0.6, 0.5, 0.45, 0.4, 0.4, 0.4]


@pytest.mark.parametrize(
    ("bins", "kinds"),
    [
        ({"bin_0": FALLING, "bin_3": FALLING}, []),
        ({"bin_0": FALLING, "bin_3": [0.1, 0.02, 0.02, 0.02, 0.03, 0.04, 0.05, 0.05]}, ["rising loss of timesteps"]),
        ({"bin_0": FALLING, "bin_3": [0.1, 0.02, 0.02, 0.05, 0.03, 0.03, 0.03, 0.03]}, []),  # it has come down again
        ({"bin_0": FALLING, "bin_3": [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]}, ["timesteps not learnt"]),
        ({"bin_0": [0.9] * 8, "bin_3": [0.1] * 8}, []),  # nothing is learnt at all, which the loss itself tells
        ({"bin_0": [1.0, 5.0, 9.0], "bin_3": [0.1] * 3}, []),  # too few to tell
    ],
)
def test_timesteps_that_get_worse_or_are_not_learnt(bins, kinds):
    record = timesteps(**bins)
    found = alarms.of_timesteps(record)
    assert [verdict.kind for verdict in found] == kinds
    assert all("quarter 4 of 4" in verdict.sentence for verdict in found)
    assert [verdict for verdict in diagnostics.diagnose(record) if verdict.kind in kinds] == found
    assert set(record.curves) <= set(alarms.WATCHED)


class Ageing(DDPM):
    """A network that from the middle of the run on is told of less and less noise than there is in the noisiest images.

    As if its embedding of the time decayed.
    """

    sickens = True

    def after_step(self, progress):
        self.age = max(0.0, 2 * progress - 1) if self.sickens else 0.0

    def forward(self, batch, phase):
        def late(x, t):
            return self.denoiser(x, torch.where(t < 75, t, t * (1 - getattr(self, "age", 0.0))))

        return self.process.loss(batch.images, batch.noising, late)


@pytest.mark.parametrize("sickens", [True, False])
def test_a_diffusion_model_that_gets_worse_at_much_noise_ends_with_the_weights_from_before(tmp_path, sickens):
    data = write_prepared(tmp_path / "blobs")
    numbers = {
        "denoiser": {"width": 16, "multipliers": [1], "num_blocks": 1, "attention_resolutions": [], "num_groups": 4},
        "timesteps": 100,
        "sampler": {"name": "ddim", "steps": 3},
        "train": {
            "steps": 120,
            "batch_size": 32,
            "evaluate_every": 6,
            "on_alarm": "stop",
            "optimizer": {"name": "adamw", "learning_rate": 0.01},
        },
    }
    seed_everything(0, "init")
    method = Ageing(DDPM.Config.model_validate(numbers), data.spec)
    method.sickens = sickens
    splits = [split_batches(data, split, 32, 0, torch.device("cpu")) for split in ("train", "validation")]
    fitted = fit(method, *splits, method.config.train, 0, tmp_path)
    record = diagnostics.read(tmp_path / "points.jsonl")
    kinds = {verdict.kind for verdict in diagnostics.diagnose(record)}
    assert ("rising loss of timesteps" in kinds) == sickens
    assert (60 < fitted.steps < 120) == sickens
    alarmed = [value for _, value in record.curves["validation/loss/bin_3"]][-3:]
    assert (fitted.metrics["validation/loss/bin_3"] < min(alarmed)) == sickens


@pytest.mark.parametrize(
    ("coverage", "precision", "class_distance", "kinds"),
    [
        (0.9, 0.8, 0.1, []),
        (0.5, 0.8, 0.41, []),
        (0.4, 0.8, 0.1, ["mode collapse"]),
        (0.4, 0.5, 0.1, ["unlike real images"]),
        (0.9, 0.5, 0.1, []),
        (0.9, 0.8, 0.6, ["classes missed"]),
        (0.01, 0.8, 0.9, ["mode collapse", "classes missed"]),
    ],
)
def test_samples_that_miss_much_of_what_is_real(coverage, precision, class_distance, kinds):
    floor = {"floor/coverage": 0.96, "floor/precision": 0.9, "floor/class_distance": 0.02}
    test = {"test/coverage": coverage, "test/precision": precision, "test/class_distance": class_distance}
    found = alarms.of_samples({**test, **floor})
    assert [verdict.kind for verdict in found] == kinds
    assert alarms.of_samples({"test/mse": 1.0}) == []
