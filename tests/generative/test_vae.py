import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from mlml import model_folder
from mlml.data.batches import Batch, split_batches
from mlml.generative._variational import Noisy
from mlml.train import fit

CONFIG = {"encoder": {"network": "mlp", "hidden_widths": [16]}, "train": {"steps": 1}, "latent_dim": 3}


def vae(spec, **numbers):
    torch.manual_seed(0)
    return model_folder.build("generative", "vae", {**CONFIG, **numbers}, spec).eval()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_the_loss_is_the_negative_elbo(blob_data, likelihood, beta):
    """Recomputed per image from the pieces, with the same noise."""
    method = vae(blob_data.spec, likelihood=likelihood, beta=beta)
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = method.augment(Batch(images, torch.zeros(5)), torch.Generator().manual_seed(7))
    output = method(batch, "train")
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(7))
    mu, log_var = method.infer(images)
    decoded = method.decode(mu + log_var.exp().sqrt() * noise)
    total = 0.0
    for x, y, m, v in zip(images, decoded, mu, log_var, strict=True):
        error = F.binary_cross_entropy(y, x, reduction="sum") if likelihood == "bernoulli" else ((x - y) ** 2).sum()
        total += error + beta * kl_divergence(Normal(m, (0.5 * v).exp()), Normal(0, 1)).sum()
    assert output.loss.item() == pytest.approx(total.item() / 5, rel=1e-4)


def test_interpolation_ends_at_the_reconstructions(blob_data):
    method = vae(blob_data.spec)
    first, last = torch.rand(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    between = method.interpolate(first, last, 5)
    assert between.shape == (4, 5, 1, 8, 8)
    torch.testing.assert_close(between[:, 0], method.reconstruct(first), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(between[:, -1], method.reconstruct(last), atol=1e-5, rtol=1e-4)


def test_samples_depend_on_the_generator_alone(blob_data):
    method = vae(blob_data.spec)
    one, same, other = (method.sample(4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_perfect_reconstruction_has_no_squared_error(blob_data):
    method = vae(blob_data.spec, likelihood="gaussian", beta=0.0)
    for parameter in method.decoder.parameters():
        torch.nn.init.zeros_(parameter)
    grey = Noisy(torch.full((2, 1, 8, 8), 0.5), torch.zeros(2, 3))
    output = method(grey, "train")
    assert output.loss.item() == 0
    bernoulli = vae(blob_data.spec, beta=0.0)
    for parameter in bernoulli.decoder.parameters():
        torch.nn.init.zeros_(parameter)
    output = bernoulli(grey, "train")
    assert output.loss.item() == pytest.approx(64 * math.log(2))


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_the_weight_of_the_kl_term_rises_over_the_warmup(blob_data, warmup):
    """Step s of 8 is trained with the weight at s / 8 of the run; evaluation uses beta from the first on."""
    method = vae(blob_data.spec, beta=4.0, kl_warmup=warmup).train()
    batch = Noisy(torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.zeros(5, 3))
    for step in range(8):
        for training, weight in ((True, 4.0 * min(1.0, step / 8 / warmup) if warmup else 4.0), (False, 4.0)):
            output = method.train(training)(batch, "train")
            expected = output.metrics["reconstruction"] + weight * output.metrics["kl"]
            torch.testing.assert_close(output.loss, expected)
        method.after_step((step + 1) / 8)
    assert method.kl_weight.item() == 4.0


def test_a_run_that_stopped_during_the_warmup_goes_on_as_if_it_had_not(blob_data, tmp_path):
    numbers = {"steps": 8, "batch_size": 16, "checkpoint_every": 1, "evaluate_every": 3, "ema_decay": 0.5}

    class Stopped(BaseException):
        pass

    def stop(step, metrics):
        raise Stopped

    def train(folder, on_evaluation=None):
        method = vae(blob_data.spec, kl_warmup=0.9, train=numbers)
        splits = [split_batches(blob_data, split, 16, 0, torch.device("cpu")) for split in ("train", "validation")]
        fit(method, *splits, method.config.train, 0, folder, on_evaluation)
        return method.state_dict()

    whole = train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "parts", stop)
    for key, value in train(tmp_path / "parts").items():
        assert torch.equal(value, whole[key]), key


def test_active_dimensions_are_those_whose_kl_is_above_a_hundredth(blob_data):
    method = vae(blob_data.spec)
    with torch.no_grad():
        method.posterior.weight.zero_()
        # KL of each dimension: mu^2 / 2 at unit variance, so 0.0098, 0.0106 and 0
        method.posterior.bias.copy_(torch.tensor([0.14, 0.146, 0.0, 0.0, 0.0, 0.0]))
    metrics = method(Noisy(torch.rand(4, 1, 8, 8), torch.zeros(4, 3)), "train").metrics
    assert metrics["active_dimensions"].item() == 1
    assert metrics["collapsed_dimensions"].item() == 2
    assert metrics["kl"].item() == pytest.approx((0.14**2 + 0.146**2) / 2, rel=1e-4)


class LinearDecoder(nn.Module):
    """The image is W z + 1/2: logits whose sigmoid is that."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, z):
        return (z @ self.weight.T + 0.5).logit().unflatten(1, (1, 8, 8))


def linear_gaussian(spec):
    """A VAE whose p(x) = N(1/2, W W' + I / 2) is known, and whose posterior is the exact one: the columns of W are at
    right angles, so that it factorises."""
    method = vae(spec, likelihood="gaussian")
    place = torch.arange(64)
    weight = torch.stack([1.0 - 2 * (place >> bit & 1) for bit in range(3)], 1) * 0.05  # of columns of norm 0.4
    variance = 1 / (1 + 2 * 0.4**2)
    method.encoder, method.decoder, method.posterior = nn.Flatten(), LinearDecoder(weight), nn.Linear(64, 6)
    with torch.no_grad():
        method.posterior.weight.copy_(torch.cat([2 * variance * weight.T, torch.zeros(3, 64)]))
        bias = -0.5 * method.posterior.weight.sum(1)
        bias[3:] = math.log(variance)
        method.posterior.bias.copy_(bias)
    return method, MultivariateNormal(torch.full((64,), 0.5), weight @ weight.T + 0.5 * torch.eye(64))


def test_by_its_exact_posterior_one_sample_tells_the_likelihood_of_a_linear_gaussian_vae(blob_data):
    method, density = linear_gaussian(blob_data.spec)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    told = method.log_likelihood(images, 1, torch.Generator().manual_seed(0))
    torch.testing.assert_close(told, density.log_prob(images.flatten(1)), atol=2e-3, rtol=0)


def test_by_a_wrong_posterior_more_samples_tighten_the_bound(blob_data):
    method, density = linear_gaussian(blob_data.spec)
    with torch.no_grad():
        method.posterior.bias[:3] += 0.7
    images = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    draws = torch.Generator().manual_seed(0)
    bounds = [method.log_likelihood(images, count, draws).mean().item() for count in (1, 10, 1000)]
    exact = density.log_prob(images.flatten(1)).mean().item()
    assert bounds[0] + 0.1 < bounds[1] < bounds[2] - 0.01
    assert bounds[2] == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_one_sample_is_the_evidence_lower_bound_in_expectation(blob_data, likelihood):
    method = vae(blob_data.spec, likelihood=likelihood)
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)).expand(4000, 1, 8, 8)
    draws = torch.Generator().manual_seed(0)
    told = method.log_likelihood(image, 1, draws)
    constant = -32 * math.log(math.pi) if likelihood == "gaussian" else 0.0  # of 64 pixels of variance 1/2
    bound = constant - method(Noisy(image, torch.randn(4000, 3, generator=draws)), "train").loss
    assert told.mean().item() == pytest.approx(bound.item(), abs=4 * told.std().item() / 4000**0.5 + 0.02)


def test_many_samples_tell_the_likelihood_by_quadrature(blob_data):
    """Of a VAE of one latent dimension, p(x) is an integral that a grid gives."""
    method = vae(blob_data.spec, latent_dim=1, decoder_width=4)
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    z = torch.linspace(-8, 8, 2001)[:, None]
    decoded = method.decode(z).detach().double().flatten(1).numpy()  # (grid, pixels)
    x = images.flatten(1).double().numpy()
    log_pixels = x @ np.log(decoded).T + (1 - x) @ np.log(1 - decoded).T  # (3, grid)
    weights = np.exp(-(z[:, 0].double().numpy() ** 2) / 2) / np.sqrt(2 * np.pi) * 0.008
    expected = np.log((np.exp(log_pixels) * weights).sum(1))
    told = method.log_likelihood(images, 1000, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(told.numpy(), expected, atol=0.02)
