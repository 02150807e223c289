"""How much is corrupted, what becomes of it, and that the rest stays."""

import math

import pytest
import torch

from mlml.data.corruption import add_gaussian, mask, salt_and_pepper

IMAGES = torch.rand(400, 2, 5, 6, generator=torch.Generator().manual_seed(0)).mul(0.8).add(0.1)  # none is 0 or 1


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


def test_gaussian_noise_has_its_deviation_and_stays_uncut():
    noise = add_gaussian(IMAGES, 0.3, generator()) - IMAGES
    n = noise.numel()
    assert abs(float(noise.mean())) < 5 * 0.3 / math.sqrt(n)
    assert abs(float(noise.std()) / 0.3 - 1) < 5 / math.sqrt(2 * n)
    within = float((noise.abs() < 0.3).float().mean())
    assert abs(within - math.erf(math.sqrt(0.5))) < 5 * math.sqrt(0.25 / n)
    assert (IMAGES + noise).min() < 0


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.4, 0.99])
def test_a_masked_image_lacks_the_same_number_of_components_everywhere(fraction):
    masked = mask(IMAGES, fraction, generator())
    gone = masked != IMAGES
    assert (gone.flatten(1).sum(1) == round(fraction * 60)).all()
    assert (masked[gone] == 0).all()
    shares = gone.float().mean(0)  # of each place
    expected = round(fraction * 60) / 60
    assert float((shares - expected).abs().max()) < 5 * math.sqrt(expected * (1 - expected) / 400) + 1e-6


def test_salt_and_pepper_are_thrown_by_a_fair_coin():
    noisy = salt_and_pepper(IMAGES, 0.25, generator())
    changed = noisy != IMAGES
    assert (changed.flatten(1).sum(1) == 15).all()
    thrown = noisy[changed]
    assert set(thrown.tolist()) == {0.0, 1.0}
    assert abs(float(thrown.mean()) - 0.5) < 5 * 0.5 / math.sqrt(len(thrown))


@pytest.mark.parametrize("corrupt", [add_gaussian, mask, salt_and_pepper])
def test_the_generator_alone_decides(corrupt):
    before = IMAGES.clone()
    assert torch.equal(corrupt(IMAGES, 0.3, generator()), corrupt(IMAGES, 0.3, generator()))
    assert not torch.equal(corrupt(IMAGES, 0.3, generator()), corrupt(IMAGES, 0.3, generator(4)))
    assert torch.equal(IMAGES, before)
