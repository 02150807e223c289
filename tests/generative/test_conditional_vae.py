import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from specs import make_spec
from torch.distributions import Normal, kl_divergence

from mlml import model_folder
from mlml.config import DeclarationError
from mlml.data.batches import Batch, split_batches
from mlml.declaration import check, resolve
from mlml.generative.conditional_vae import ConditionalVAE, Labelled
from mlml.method import Infers, Likelihood, Reconstructs, SamplesClasses
from mlml.train import fit

CONFIG = {"encoder": {"network": "mlp", "hidden_widths": [16]}, "train": {"steps": 1}, "latent_dim": 3}


def conditional_vae(spec, **numbers):
    torch.manual_seed(0)
    return model_folder.build("generative", "conditional_vae", {**CONFIG, **numbers}, spec).eval()


def with_priors(method):
    """Give every class a prior of its own, if it is to have one; all begin alike."""
    if method.prior is not None:
        torch.nn.init.normal_(method.prior.weight, std=0.5, generator=torch.Generator().manual_seed(5))
    return method


def prior_of(method, told):
    """Mean and standard deviation of p(z|y)."""
    if method.prior is None:
        return torch.zeros(len(told), 3), torch.ones(len(told), 3)
    moments = told @ method.prior.weight.T + method.prior.bias
    return moments[:, :3], (0.5 * moments[:, 3:]).exp()


@pytest.mark.parametrize("prior", ["conditional", "standard"])
def test_the_loss_is_the_negative_bound_given_the_class(prior, blob_data):
    """Recomputed per image from the pieces: the one-hot class stands behind the features, and behind z."""
    method = with_priors(conditional_vae(blob_data.spec, beta=2.0, prior=prior))
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 3, 1, 1, 2])
    batch = method.augment(Batch(images, labels), torch.Generator().manual_seed(7))
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(7))
    total = 0.0
    for place in range(5):
        told = torch.eye(4)[labels[place]][None]
        moments = method.posterior(torch.cat([method.encode(images)[place : place + 1], told], 1))
        mu, std = moments[:, :3], (0.5 * moments[:, 3:]).exp()
        decoded = method.decoder(torch.cat([mu + std * noise[place], told], 1)).sigmoid()
        total += F.binary_cross_entropy(decoded[0], images[place], reduction="sum")
        total += 2.0 * kl_divergence(Normal(mu, std), Normal(*prior_of(method, told))).sum()
    assert method(batch, "train").loss.item() == pytest.approx(total.item() / 5, rel=1e-4)


def test_posterior_and_decoder_hear_the_class(blob_data):
    method = conditional_vae(blob_data.spec)
    images, noise = torch.rand(4, 1, 8, 8), torch.zeros(4, 3)
    one, other = (method(Labelled(images, noise, torch.full((4,), label)), "train").metrics for label in (0, 1))
    assert one["kl"] != other["kl"]
    assert one["reconstruction"] != other["reconstruction"]


def test_samples_are_of_the_classes_in_turn(blob_data):
    method = conditional_vae(blob_data.spec)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    drawn = method.sample(6, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, method.sample_classes(labels, torch.Generator().manual_seed(0)))
    assert not torch.equal(drawn, method.sample_classes(labels.flip(0), torch.Generator().manual_seed(0)))


def test_samples_are_decoded_from_the_prior_of_their_class(blob_data):
    method = with_priors(conditional_vae(blob_data.spec))
    labels = torch.tensor([2, 0, 3])
    told, noise = torch.eye(4)[labels], torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    mean, std = prior_of(method, told)
    expected = method.decoder(torch.cat([mean + std * noise, told], 1)).sigmoid()
    torch.testing.assert_close(method.sample_classes(labels, torch.Generator().manual_seed(0)), expected)


def test_the_priors_of_all_classes_begin_alike_and_part(blob_data, tmp_path):
    numbers = {"steps": 20, "batch_size": 32, "optimizer": {"name": "adamw", "learning_rate": 0.01}}
    method = conditional_vae(blob_data.spec, train=numbers, decoder_width=8)
    for moments in method.prior_of(torch.eye(4)):
        assert torch.equal(moments, torch.zeros(4, 3))
    splits = [split_batches(blob_data, split, 32, 0, torch.device("cpu")) for split in ("train", "validation")]
    fit(method, *splits, method.config.train, 0, tmp_path)
    means, _ = method.prior_of(torch.eye(4))
    assert torch.pdist(means).min() > 0.1


def test_a_trained_one_draws_the_class_that_it_is_asked_for(blob_data, tmp_path):
    """The class of a blob is its bright quadrant."""
    numbers = {"steps": 40, "batch_size": 32, "optimizer": {"name": "adamw", "learning_rate": 0.01}}
    method = conditional_vae(blob_data.spec, train=numbers, decoder_width=8)
    splits = [split_batches(blob_data, split, 32, 0, torch.device("cpu")) for split in ("train", "validation")]
    fit(method, *splits, method.config.train, 0, tmp_path)
    labels = torch.arange(40) % 4
    drawn = method.eval().sample_classes(labels, torch.Generator().manual_seed(0))
    quadrants = F.avg_pool2d(drawn, 4).flatten(1)  # (40, 4), row by row as the classes are
    assert (quadrants.argmax(1) == labels).float().mean() > 0.95


def test_the_likelihood_is_that_of_the_even_mixture_of_classes(blob_data):
    """p(x) is the mean over the classes of an integral over one latent dimension, which a grid gives."""
    method = with_priors(conditional_vae(blob_data.spec, latent_dim=1, decoder_width=4))
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    z = torch.linspace(-8, 8, 1001)[:, None]
    x, of_class = images.flatten(1).double().numpy(), []
    for label in range(4):
        mean, log_var = (each.item() for each in method.prior_of(torch.eye(4)[label : label + 1]))
        standard = (z[:, 0].double().numpy() - mean) / math.exp(0.5 * log_var)
        weights = np.exp(-(standard**2) / 2 - 0.5 * log_var) / math.sqrt(2 * math.pi) * 0.016
        decoded = method.logits(z, method.one_hot(torch.full((1001,), label))).sigmoid()
        decoded = decoded.detach().double().flatten(1).numpy()
        log_pixels = x @ np.log(decoded).T + (1 - x) @ np.log(1 - decoded).T  # (3, grid)
        of_class.append((np.exp(log_pixels) * weights).sum(1))
    told = method.log_likelihood(images, 5000, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(told.numpy(), np.log(np.mean(of_class, 0)), atol=0.02)


def test_it_offers_what_needs_no_class_to_be_told(blob_data):
    method = conditional_vae(blob_data.spec)
    assert isinstance(method, SamplesClasses)
    assert isinstance(method, Likelihood)
    assert not isinstance(method, Infers | Reconstructs)


def test_data_without_labels_is_refused_before_anything_runs():
    entry = {"method": "conditional_vae", "dataset": "plain", "encoder": {"network": "mlp"}, "train": {"steps": 1}}
    sections = {"supervised": {}, "pretext": {}, "probe": {}, "generative": {"c": entry}, "search": {}}
    with pytest.raises(DeclarationError, match=r"generative\.c\.dataset: needs labels, but 'plain' has none"):
        check({"threads": 1, "data": {"plain": {"source": "photos"}}, **sections})
    with pytest.raises(ValueError, match="conditional_vae: draws images of classes, but 'made' has no labels"):
        ConditionalVAE(resolve("generative", "c", entry).config, make_spec())
