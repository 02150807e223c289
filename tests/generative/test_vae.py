import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from mlml import model_folder
from mlml.data.batches import Batch
from mlml.generative._variational import Noisy

CONFIG = {"encoder": {"network": "mlp", "hidden_widths": [16]}, "train": {"steps": 1}, "latent_dim": 3}


def vae(spec, **numbers):
    torch.manual_seed(0)
    return model_folder.build("generative", "vae", {**CONFIG, **numbers}, spec).eval()


def test_kl_equals_torch():
    mu, log_var = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    expected = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(0, 1)).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mu, log_var), expected)
    assert kl_to_standard_normal(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


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
