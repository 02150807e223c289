import pytest
import torch

from mlml.config import DeclarationError
from mlml.declaration import resolve
from mlml.diffusion import noise
from mlml.diffusion.process import Process, guided
from mlml.generative.ddpm import DDPM

KINDS = ("epsilon", "x0", "v")
TRAIN = {"steps": 1}


def process(snr_range=None, **numbers):
    config = {"train": TRAIN, "timesteps": 40, "sampler": {"name": "ddim", "steps": 10}, **numbers}
    return Process(DDPM.Config.model_validate(config), snr_range)


def images(count=6, seed=0):
    return torch.rand(count, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def crooked(x, t):
    return torch.sin(3 * x) + t.view(-1, 1, 1, 1) / 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_loss_is_the_slow_mean(kind, schedule):
    made, batch = process(prediction=kind, noise_schedule=schedule), images(16)
    noising = made.draw(batch, torch.Generator().manual_seed(1))
    output = made.loss(batch, noising, crooked)
    losses, bins = [], [[], [], [], []]
    for image, t, epsilon in zip(batch.double(), noising.t.tolist(), noising.epsilon.double(), strict=True):
        signal, spread = made.schedule.rates(t)
        x0 = 2 * image - 1
        x = signal * x0 + spread * epsilon
        wanted = {"epsilon": epsilon, "x0": x0, "v": signal * epsilon - spread * x0}[kind]
        losses.append(float((crooked(x[None], torch.tensor([t]))[0] - wanted).square().mean()))
        bins[t // 10].append(losses[-1])
    assert output.loss.item() == pytest.approx(sum(losses) / 16, rel=1e-4)
    for k in range(4):
        assert output.metrics[f"loss/bin_{k}"].item() == pytest.approx(4 * sum(bins[k]) / 16, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bounds", [(1, 5), (0, 5), (1, 1e9)], ids=["both", "min_snr", "truncated"])
def test_a_range_weighs_errors_of_the_image_whatever_is_predicted(kind, bounds):
    made, batch = process(bounds, prediction=kind, noise_schedule="cosine"), images(16)
    noising = made.draw(batch, torch.Generator().manual_seed(1))
    losses = []
    for image, t, epsilon in zip(batch.double(), noising.t.tolist(), noising.epsilon.double(), strict=True):
        signal, spread = made.schedule.rates(t)
        x0 = 2 * image - 1
        x = signal * x0 + spread * epsilon
        told = crooked(x[None], torch.tensor([t]))[0]
        estimate = {"epsilon": (x - spread * told) / signal, "x0": told, "v": signal * x - spread * told}[kind]
        weight = min(max(signal**2 / spread**2, bounds[0]), bounds[1])
        losses.append(weight * float((estimate - x0).square().mean()))
    assert made.loss(batch, noising, crooked).loss.item() == pytest.approx(sum(losses) / 16, rel=1e-3)


def test_the_mean_over_bins_is_the_loss_and_each_is_its_own_mean():
    made = process(timesteps=42)
    batch = images(4000)
    noising = made.draw(batch, torch.Generator().manual_seed(1))
    late = noising.t >= 32  # the last quarter of 42 begins there
    assert late.sum() > 0
    output = made.loss(batch, noising, lambda x, t: noising.epsilon + (t >= 32).float().view(-1, 1, 1, 1))
    assert output.metrics["loss/bin_3"].item() == pytest.approx(1, abs=0.1)
    assert all(output.metrics[f"loss/bin_{k}"].item() == 0 for k in range(3))


@pytest.mark.parametrize("kind", KINDS)
def test_who_knows_the_answer_has_no_loss_and_denoises_at_once(kind):
    made, batch = process(prediction=kind), images()
    noising = made.draw(batch, torch.Generator().manual_seed(1))

    def knowing(x, t):
        signal, spread = (rate[t.long()].view(-1, 1, 1, 1) for rate in (made.signal, made.noise))
        x0 = 2 * batch - 1
        return noise.target(kind, x0, (x - signal * x0) / spread, signal, spread)

    assert made.loss(batch, noising, knowing).loss.item() == pytest.approx(0, abs=1e-8)
    for t in (0, 20, 39):
        signal, spread = made.schedule.rates(t)
        x = signal * (2 * batch - 1) + spread * noising.epsilon
        torch.testing.assert_close(made.denoise(knowing)(x, t), 2 * batch - 1, atol=1e-3, rtol=1e-3)
    drawn = made.sample(made.denoise(knowing), tuple(batch.shape), torch.Generator().manual_seed(2))
    torch.testing.assert_close(drawn, batch, atol=1e-3, rtol=1e-3)


def test_draws_are_uniform_and_standard_normal():
    t, epsilon = process().draw(torch.empty(8000, 1, 3, 3), torch.Generator().manual_seed(0))
    counts = t.bincount(minlength=40)
    assert len(counts) == 40
    assert (counts - 200).abs().max() < 70  # five deviations
    assert epsilon.mean().item() == pytest.approx(0, abs=0.02)
    assert epsilon.std().item() == pytest.approx(1, abs=0.02)


def test_an_estimate_is_clipped_if_declared():
    x = torch.zeros(2, 1, 2, 2)
    for clip in (True, False):
        made = process(prediction="x0", clip=clip)
        estimate = made.denoise(lambda x, t: x + 3)(x, 5)
        assert estimate.unique().item() == (1 if clip else 3)


def test_guidance_is_equation_6():
    conditional, unconditional = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    for w in (-1, 0, 0.3, 2.5):
        expected = (1 + w) * conditional - w * unconditional
        torch.testing.assert_close(guided(conditional, unconditional, 1 + w), expected)


def test_a_film_begins_with_images_and_with_noise():
    made, batch = process(), images()
    forward, reverse = made.film(made.denoise(crooked), batch, 5, torch.Generator().manual_seed(0))
    assert forward.shape == reverse.shape == (6, 5, 2, 4, 4)
    assert torch.equal(forward[:, 0], batch)
    spread = [(frame - batch).square().mean().item() for frame in forward.unbind(1)]
    assert spread == sorted(spread)
    generator = torch.Generator().manual_seed(0)
    torch.randn(batch.shape, generator=generator)
    start = torch.randn(batch.shape, generator=generator)
    assert torch.equal(reverse[:, 0], ((start + 1) / 2).clamp(0, 1))


@pytest.mark.parametrize("method", ["ddpm", "guided_diffusion", "glide"])
@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        (
            {"timesteps": 20, "noise_schedule": "linear"},
            "timesteps must be at least 21 where noise_schedule is 'linear'",
        ),
        ({"timesteps": 30, "sampler": "ddim"}, "sampler.steps must be at most timesteps, 30; got 50"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(method, numbers, sentence):
    entry = {"method": method, "dataset": "x", "train": TRAIN, **numbers}
    with pytest.raises(DeclarationError, match=rf"^generative\.mine: {sentence}"):
        resolve("generative", "mine", entry)
    resolve("generative", "mine", {**entry, "timesteps": 50})
