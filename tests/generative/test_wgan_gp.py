import pytest
import torch
from specs import make_spec

from mlml import model_folder
from mlml.config import DeclarationError
from mlml.data.batches import Batch
from mlml.declaration import resolve
from mlml.seeds import seed_everything

CONFIG = {
    "latent_dim": 4,
    "generator_width": 4,
    "critic_width": 4,
    "train": {"steps": 1, "batch_size": 6},
}


def build(**numbers):
    seed_everything(0, "init")
    return model_folder.build("generative", "wgan_gp", {**CONFIG, **numbers}, make_spec(1, 16, 16))


def drawn(method, b=5):
    images = torch.rand(b, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return method.augment(Batch(images, torch.zeros(b)), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", ["layer", "instance", "none"])
def test_the_critic_s_loss_is_that_of_algorithm_1(norm):
    """Gulrajani et al. 2017, lines 4 to 7, one image after another."""
    method = build(critic_norm=norm).eval()
    batch = drawn(method)
    total = 0.0
    for x, z, epsilon in zip(2 * batch.images - 1, batch.latents, batch.epsilon, strict=True):
        x_tilde = method.generator(z[None]).tanh().detach()
        x_hat = (epsilon * x[None] + (1 - epsilon) * x_tilde).requires_grad_()
        gradient = torch.autograd.grad(method.critic(x_hat).sum(), x_hat)[0]
        total += method.critic(x_tilde) - method.critic(x[None]) + 10 * (gradient.norm() - 1) ** 2
    output = method(batch, "critic")
    assert float(output.loss.detach()) == pytest.approx(float(total.detach()) / 5, rel=1e-4)
    expected = 10 * output.metrics["penalty"] - output.metrics["margin"]
    torch.testing.assert_close(output.loss, expected)


def test_the_generator_descends_what_the_critic_says_of_its_images():
    method = build()
    batch = drawn(method)
    method(batch, "generator").loss.backward()
    found = [p.grad.clone() for p in method.generator.parameters()]
    method.zero_grad()
    (-method.critic(method.generator(batch.latents).tanh()).mean()).backward()
    for one, parameter in zip(found, method.generator.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-7)


def test_the_critic_s_phase_leaves_the_generator_alone():
    method = build()
    method(drawn(method), "critic").loss.backward()
    assert all(p.grad is None for p in method.generator.parameters())
    assert all(p.grad is not None for p in method.critic.parameters())
    assert method.phases == ("critic",) * 5 + ("generator",)


def test_where_the_critic_is_held_is_drawn_for_every_image():
    method = build()
    epsilon = drawn(method, 200).epsilon
    assert len(set(epsilon.tolist())) == 200
    assert 0 <= float(epsilon.min()) < 0.05 < 0.95 < float(epsilon.max()) < 1
    assert torch.equal(epsilon, drawn(method, 200).epsilon)


def test_batch_norm_is_refused():
    entry = {"method": "wgan_gp", "dataset": "blobs", **CONFIG, "critic_norm": "batch"}
    with pytest.raises(DeclarationError, match=r"generative\.w\.critic_norm"):
        resolve("generative", "w", entry)
