import numpy as np
import pytest
import torch
from specs import make_spec

from mlml import model_folder
from mlml.config import DeclarationError
from mlml.data.batches import Batch
from mlml.declaration import resolve
from mlml.method import Diffuses, Method, Reconstructs, Samples
from mlml.model_folder import ModelError

TRAIN = {"steps": 1, "batch_size": 16}
CONFIG = {"base": "below", "train": TRAIN, "timesteps": 50, "sampler": {"name": "ddim", "steps": 10}}


class Pair(Method):
    """In place of an autoencoder of images of 1x2 pixels: z = 10 pixels - (5, 3), with variances of 4 and 1."""

    scale, shift = 10.0, torch.tensor([5.0, 3.0])

    def __init__(self):
        super().__init__(None, make_spec(1, 1, 2))
        self.weight = torch.nn.Parameter(torch.ones(()))

    def infer(self, images):
        log_var = torch.tensor([4.0, 1.0]).log().expand(len(images), 2)
        return self.scale * images.flatten(1) - self.shift, log_var

    def decode(self, z):
        return ((z + self.shift) / self.scale).view(-1, 1, 1, 2)


def latent_diffusion(base=None, **numbers):
    torch.manual_seed(0)
    base = base or Pair()
    return model_folder.build("composed", "latent_diffusion", {**CONFIG, **numbers}, base.spec, base)


def images(count, seed=0):
    return torch.rand(count, 1, 1, 2, generator=torch.Generator().manual_seed(seed))


def see(method, pictures, seed=0):
    batch = Batch(pictures, torch.zeros(len(pictures)))
    return method(method.augment(batch, torch.Generator().manual_seed(seed)), "train")


def test_each_component_is_standardised_by_all_batches_so_far():
    """By the moments of a mixture of normals: of the means, and of the variances around them."""
    method = latent_diffusion().train()
    sizes = (7, 16, 3)
    seen = [images(size, seed) for seed, size in enumerate(sizes)]
    for batch in seen:
        see(method, batch)
    mu = 10 * torch.cat(seen).flatten(1).double().numpy() - np.array([5.0, 3.0])
    variance = mu.var(0) + np.array([4.0, 1.0])
    np.testing.assert_allclose(method.mean.numpy(), mu.mean(0), rtol=1e-5)
    np.testing.assert_allclose(method.variance.numpy(), variance, rtol=1e-5)
    assert method.num_seen == sum(sizes)
    z = torch.tensor([[1.0, -2.0]])
    wanted = (z.numpy() - mu.mean(0)) / np.sqrt(variance)
    np.testing.assert_allclose(method.standardised(z).numpy(), wanted, rtol=1e-4)
    torch.testing.assert_close(method.decode(method.standardised(z)), Pair().decode(z))


def test_the_first_batch_is_standardised_already():
    """What is noised has mean 0 and variance 1, up to the draws of the posterior."""
    method = latent_diffusion(prediction="x0").train()
    batch = method.augment(Batch(images(4000), torch.zeros(4000)), torch.Generator().manual_seed(1))
    seen = []
    method.denoiser.register_forward_pre_hook(lambda _, given: seen.append(given))
    method(batch, "train")
    noised, t = seen[0]
    signal, noise = method.process.signal[t][:, None], method.process.noise[t][:, None]
    x0 = ((noised - noise * batch.noising.epsilon) / signal)[t < 25]
    assert x0.mean(0).abs().max() < 0.06
    assert (x0.var(0) - 1).abs().max() < 0.1


def test_evaluation_leaves_the_statistics_alone():
    method = latent_diffusion().train()
    see(method, images(8))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    see(method.eval(), images(8, 1))
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_a_component_that_never_varies_stays_finite():
    method = latent_diffusion().train()
    method.variance.zero_()
    assert method.standardised(torch.ones(1, 2)).isfinite().all()


def test_it_learns_a_distribution_of_latents():
    """Two images, so two normals of latents, of the posterior's variances."""
    method = latent_diffusion(
        noise_schedule="cosine", denoiser={"width": 32, "num_blocks": 2}, sampler={"name": "ddim", "steps": 25}
    ).train()
    optimizer = torch.optim.Adam(method.phase_parameters("train"))
    draws = torch.Generator().manual_seed(0)
    means = torch.tensor([[0.1, 0.2], [0.9, 0.8]])  # z of (-4, -1) and (4, 5)
    for step in range(250):
        optimizer.param_groups[0]["lr"] = 0.005 * (1 - step / 250)
        labels = torch.randint(2, (128,), generator=draws)
        pictures = means[labels].view(-1, 1, 1, 2)
        loss = method(method.augment(Batch(pictures, labels), draws), "train").loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    method.eval()
    drawn = 10 * method.sample(2000, torch.Generator().manual_seed(1)).flatten(1) - Pair.shift
    truth = 10 * means - Pair.shift  # (2, 2)
    side = drawn[:, 1] > 2
    assert 0.4 < side.float().mean() < 0.6
    for component, chosen in enumerate((~side, side)):
        assert (drawn[chosen].mean(0) - truth[component]).abs().max() < 0.5
        assert ((drawn[chosen].std(0) / torch.tensor([2.0, 1.0])) - 1).abs().max() < 0.3


def test_what_it_offers():
    method = latent_diffusion().eval()
    for protocol in (Samples, Reconstructs, Diffuses):
        assert isinstance(method, protocol)
    pictures = images(3)
    torch.testing.assert_close(method.reconstruct(pictures), pictures)
    torch.testing.assert_close(method.interpolate(pictures, pictures.flip(0), 5)[:, 0], pictures)
    forward, reverse = method.film(pictures, 4, torch.Generator().manual_seed(0))
    assert forward.shape == reverse.shape == (3, 4, 1, 1, 2)
    torch.testing.assert_close(forward[:, 0], pictures)
    torch.testing.assert_close(reverse[:, -1], method.sample(3, after_noise(3)))


def after_noise(count):
    """A generator that has drawn what a film's way to noise takes."""
    generator = torch.Generator().manual_seed(0)
    torch.randn(count, 2, generator=generator)
    return generator


def test_latents_are_not_clipped():
    """They are of no range: a standardised one beyond 1 is an estimate as any other."""
    method = latent_diffusion(prediction="x0")
    assert not method.config.clip
    estimate = method.process.denoise(lambda x, t: torch.full_like(x, 3.0))(torch.zeros(1, 2), 10)
    assert estimate.tolist() == [[3.0, 3.0]]
    with pytest.raises(DeclarationError, match=r"composed.x.clip: unknown key"):
        resolve("composed", "x", {"method": "latent_diffusion", "dataset": "d", **CONFIG, "clip": True})


def test_without_a_base_it_is_not_built():
    with pytest.raises(ModelError, match=r"composed\.latent_diffusion: stands on another trained method"):
        model_folder.build("composed", "latent_diffusion", CONFIG, make_spec())
