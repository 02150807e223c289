"""The study of likelihood, with a model whose likelihood is known."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mlml import figures
from mlml.data.batches import as_float
from mlml.studies._subject import Subject
from mlml.studies.likelihood import LogLikelihood, plot, sentences

CPU = torch.device("cpu")


class Normal(nn.Module):
    """Every pixel is normal around 1/2 with variance 1/2; tells how it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def log_likelihood(self, images, num_samples, generator):
        self.asked.append((len(images), num_samples, torch.rand(1, generator=generator).item()))
        return (-(images - 0.5).square() - 0.5 * math.log(math.pi)).flatten(1).sum(1)


def subject(data, method, likelihood="gaussian", seeds=(0, 1)):
    config = SimpleNamespace(likelihood=likelihood, train=SimpleNamespace(batch_size=16))

    def nothing(*_):
        raise AssertionError("a likelihood trains nothing")

    return Subject("normal", config, "labels", seeds, data, CPU, lambda _: method, nothing, nothing, nothing, Path())


def study(**numbers):
    return LogLikelihood(LogLikelihood.Config(experiment="normal", **numbers))


def test_the_means_are_those_of_the_formula(blob_data):
    method = Normal()
    found = study(num_draws=7).study(subject(blob_data, method))
    for split in ("train", "test"):
        images = as_float(torch.from_numpy(np.array(blob_data.split(split).images))).double()
        each = (-(images - 0.5).square() - 0.5 * math.log(math.pi)).flatten(1).sum(1)
        assert found.metrics[0][f"{split}/log_likelihood"] == pytest.approx(each.mean().item(), rel=1e-6)
        bits = 8 - each.mean().item() / (64 * math.log(2))
        assert found.metrics[1][f"{split}/bits_per_dim"] == pytest.approx(bits, rel=1e-6)
    assert len(found.table) == 2 * (96 + 24)
    assert [asked[:2] for asked in method.asked] == 2 * [(64, 7), (32, 7), (24, 7)]
    assert len({asked[2] for asked in method.asked}) == 6  # other draws for each part, split and seed
    again = Normal()
    study(num_draws=7).study(subject(blob_data, again))
    assert again.asked == method.asked


def test_a_bernoulli_likelihood_has_no_bits_and_few_images_are_enough(blob_data):
    found = study(num_images=10).study(subject(blob_data, Normal(), "bernoulli", seeds=(3,)))
    assert set(found.metrics[3]) == {"train/log_likelihood", "test/log_likelihood"}
    assert found.table["split"].value_counts().to_dict() == {"train": 10, "test": 10}


def test_a_method_without_a_likelihood_is_refused(blob_data):
    with pytest.raises(TypeError, match="likelihood: 'normal' has no 'log_likelihood'"):
        study().study(subject(blob_data, nn.Linear(1, 1)))


def test_the_sentences_tell_the_gap():
    metrics = {seed: {"train/log_likelihood": -80.0, "test/log_likelihood": -90.0} for seed in (0, 1)}
    assert sentences("vae", metrics, 200) == (
        "vae: the log-likelihood of a test image is -90 ± 0 nats (a bound by 200 draws).",
        "That is 10 ± 0 nats less than that of an image it has learnt from (-80 ± 0).",
    )
    metrics = {0: {"train/log_likelihood": -90.0, "test/log_likelihood": -80.0}}
    assert sentences("vae", metrics, 9)[1] == ("That is 10 nats more than that of an image it has learnt from (-90).")


def test_the_picture_is_drawn(blob_data):
    table = study().study(subject(blob_data, Normal())).table
    axes = plot(table, figures.LIGHT).axes[0]
    heights = [patch.get_height() for patch in axes.patches]
    assert sum(heights) == pytest.approx(200)  # percent of each split
