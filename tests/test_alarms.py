"""Alarms of generative methods: on series made by hand, and on runs made to have the illness."""

import pytest
import torch
from blobs import write_prepared

from mlml import alarms, diagnostics, model_folder
from mlml.data.batches import split_batches
from mlml.declaration import resolve
from mlml.diagnostics import Record
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


@pytest.mark.parametrize("name", ["vae", "conditional_vae"])
@pytest.mark.parametrize("beta", [1.0, 500.0])
def test_a_huge_beta_collapses_the_posterior_and_beta_1_does_not(tmp_path, name, beta):
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
    assert ("posterior collapse" in kinds) == (beta > 1)
