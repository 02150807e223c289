import math

import numpy as np
import pytest
import torch
from gradients import finite_differences

from mlml.config import PlainNorm
from mlml.generative import _adversarial as adversarial
from mlml.layers.discriminator import ConvDiscriminator

LOSSES = ["minimax", "non_saturating", "hinge"]


def logits(n=7):
    return torch.randn(2, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_those_of_the_loop(loss):
    real, fake = logits()
    discriminator = generator = 0.0
    for r, f in zip(real.tolist(), fake.tolist(), strict=True):
        if loss == "hinge":  # Miyato et al. 2018, Eqs. 16 and 17
            discriminator -= min(0, -1 + r) + min(0, -1 - f)
            generator -= f
        else:  # Goodfellow et al. 2014, Eq. 1
            discriminator -= math.log(sigmoid(r)) + math.log(1 - sigmoid(f))
            generator += math.log(1 - sigmoid(f)) if loss == "minimax" else -math.log(sigmoid(f))
    assert float(adversarial.discriminator_loss(loss, real, fake)) == pytest.approx(discriminator / 7, rel=1e-12)
    assert float(adversarial.generator_loss(loss, fake)) == pytest.approx(generator / 7, rel=1e-12)


@pytest.mark.parametrize(("logit", "minimax", "non_saturating"), [(0.0, -0.5, -0.5), (-20.0, 0.0, -1.0)])
def test_the_generators_of_both_losses_agree_at_the_fixed_point_and_only_one_learns_when_found_out(
    logit, minimax, non_saturating
):
    for loss, expected in (("minimax", minimax), ("non_saturating", non_saturating)):
        fake = torch.full((4,), logit, dtype=torch.float64, requires_grad=True)
        value = adversarial.generator_loss(loss, fake)
        value.backward()
        torch.testing.assert_close(fake.grad.sum().item(), expected, atol=1e-8, rtol=0)
        if logit == 0:
            assert float(value) == pytest.approx({"minimax": -1, "non_saturating": 1}[loss] * math.log(2))


def test_penalties_of_a_linear_map_are_known():
    weight = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = torch.randn(5, 1, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def judge(x):
        return x.flatten(1) @ weight

    found, gradient = adversarial.with_gradient(judge, images)
    torch.testing.assert_close(found, judge(images))
    torch.testing.assert_close(gradient, weight.view(1, 1, 3, 4).expand(5, 1, 3, 4))
    norm = float(weight.norm())
    assert float(adversarial.gradient_penalty(gradient)) == pytest.approx((norm - 1) ** 2)
    _, r1 = adversarial.judged_with_r1(judge, images, 10.0)
    assert float(r1) == pytest.approx(10 / 2 * norm**2)
    assert float(adversarial.judged_with_r1(judge, images, 0.0)[1]) == 0


@pytest.mark.parametrize("objective", ["hinge", "r1", "wgan_gp"])
def test_gradients_are_finite_differences(objective):
    """Of the whole loss of the discriminator, penalty included, by its weights: a derivative of a derivative."""
    torch.manual_seed(0)
    size, norm = (16, "layer") if objective == "wgan_gp" else (8, "none")
    judge = ConvDiscriminator(1, size, size, 2, PlainNorm(name=norm)).double()
    generator = torch.Generator().manual_seed(1)
    real, made = torch.rand(2, 3, 1, size, size, generator=generator, dtype=torch.float64) * 2 - 1
    between = torch.lerp(made, real, 0.3)

    def loss():
        if objective == "wgan_gp":
            penalty = adversarial.gradient_penalty(adversarial.with_gradient(judge, between)[1])
            return judge(made).mean() - judge(real).mean() + 10 * penalty
        logits, penalty = adversarial.judged_with_r1(judge, real, 0.0 if objective == "hinge" else 10.0)
        return adversarial.discriminator_loss("hinge", logits, judge(made)) + penalty

    parameters = list(judge.parameters())

    def at(*arrays):
        with torch.no_grad():
            for parameter, array in zip(parameters, arrays, strict=True):
                parameter.copy_(torch.from_numpy(array))
        return float(loss())

    loss().backward()
    found = [parameter.grad.clone().numpy() for parameter in parameters]
    arrays = [parameter.detach().clone().numpy() for parameter in parameters]
    for one, other in zip(found, finite_differences(at, arrays), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-8)


def test_an_image_s_gradient_is_its_own():
    torch.manual_seed(0)
    judge = ConvDiscriminator(1, 16, 16, 2, PlainNorm(name="layer")).double()
    images = torch.rand(3, 1, 16, 16, dtype=torch.float64)
    together = adversarial.with_gradient(judge, images)[1]
    alone = torch.cat([adversarial.with_gradient(judge, image[None])[1] for image in images])
    torch.testing.assert_close(together, alone)


def test_diversity_is_that_of_the_loop():
    fake, real = torch.rand(2, 6, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    totals = []
    for images in (fake, real):
        flat = images.flatten(1).double().numpy()
        nearest = [min(np.linalg.norm(a - b) for k, b in enumerate(flat) if k != n) for n, a in enumerate(flat)]
        totals.append(np.mean(nearest))
    assert float(adversarial.diversity(fake, real)) == pytest.approx(totals[0] / totals[1], rel=1e-5)
    assert float(adversarial.diversity(real, real)) == 1
    assert float(adversarial.diversity(fake[[0, 1, 2, 0, 1, 2]], real)) == 0  # three images, again and again
    assert float(adversarial.diversity(fake[:1], real[:1])) == 1


def test_the_standing_of_the_game():
    real, fake = torch.tensor([1.0, 2.0, -1.0, 4.0]), torch.tensor([-1.0, -2.0, -3.0, 6.0])
    standing = adversarial.standing(real, fake)
    assert {name: float(value) for name, value in standing.items()} == {"accuracy": 0.75, "margin": 1.5}


@pytest.mark.parametrize(("prior", "deviation"), [("uniform", 3**-0.5), ("normal", 1.0)])
def test_latents_are_of_their_prior(prior, deviation):
    z = adversarial.draw_latents(prior, 500, 20, torch.Generator().manual_seed(0))
    assert z.shape == (500, 20)
    assert abs(float(z.mean())) < 0.03
    assert float(z.std()) == pytest.approx(deviation, rel=0.03)
    assert (float(z.abs().max()) <= 1) == (prior == "uniform")
