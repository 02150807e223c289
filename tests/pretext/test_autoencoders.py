import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from specs import make_spec
from torch.distributions import Bernoulli, kl_divergence

from mlml import model_folder
from mlml.data.batches import Batch
from mlml.data.corruption import add_gaussian, mask, salt_and_pepper
from mlml.method import Reconstructs
from mlml.pretext._autoencoding import reconstruction_error
from mlml.pretext.sparse import kl_sparsity

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
BATCH = Batch(IMAGES, torch.zeros(6))
NAMES = ("autoencoder", "denoising", "sparse")


def build(name, **numbers):
    torch.manual_seed(0)
    config = {"encoder": {"network": "mlp", "hidden_widths": [16]}, "train": {"steps": 1}, "latent_dim": 5, **numbers}
    return model_folder.build("pretext", name, config, make_spec(1, 8, 8, mean=0.4, std=0.3)).eval()


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("error", ["cross_entropy", "squared"])
def test_the_error_is_that_of_the_papers(error):
    logits = torch.randn(3, 2, 4, 5, generator=generator())
    images = torch.rand(3, 2, 4, 5, generator=generator(4))
    for b, found in enumerate(reconstruction_error(logits, images, error).tolist()):
        total = 0.0
        for place in np.ndindex(2, 4, 5):
            x, z = float(images[(b, *place)]), 1 / (1 + math.exp(-float(logits[(b, *place)])))
            if error == "squared":
                total += 0.5 * (x - z) ** 2
            else:
                total -= x * math.log(z) + (1 - x) * math.log(1 - z)
        assert found == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", ["cross_entropy", "squared"])
def test_the_loss_is_the_mean_error_of_what_is_reconstructed(name, error):
    method = build(name, error=error)
    batch = method.augment(BATCH, generator())
    output = method(batch, "train")
    seen = mask(IMAGES, 0.25, generator()) if name == "denoising" else IMAGES
    again = method.reconstruct(seen)
    if error == "squared":
        expected = 0.5 * F.mse_loss(again, IMAGES, reduction="sum") / 6
    else:
        expected = F.binary_cross_entropy(again, IMAGES, reduction="sum") / 6
    found = output.metrics["reconstruction"] if name == "sparse" else output.loss
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_reconstructions_are_of_codes_and_interpolations_end_there(name):
    method = build(name)
    assert isinstance(method, Reconstructs)
    codes = method.encode(IMAGES)
    assert codes.shape == (6, method.feature_dim) == (6, 5)
    again = method.reconstruct(IMAGES)
    assert torch.equal(again, method.decode(codes))
    assert 0 <= float(again.min()) <= float(again.max()) <= 1
    between = method.interpolate(IMAGES[:3], IMAGES[3:], 4)
    assert between.shape == (3, 4, 1, 8, 8)
    torch.testing.assert_close(between[:, 0], again[:3])
    torch.testing.assert_close(between[:, -1], again[3:])
    torch.testing.assert_close(between[1, 1], method.decode((2 * codes[1:2] + codes[4:5]) / 3)[0])


@pytest.mark.parametrize(
    ("corruption", "corrupt"),
    [
        ({"name": "gaussian", "std": 0.5}, lambda images, g: add_gaussian(images, 0.5, g)),
        ({"name": "masking", "fraction": 0.5}, lambda images, g: mask(images, 0.5, g)),
        ({"name": "salt_and_pepper"}, lambda images, g: salt_and_pepper(images, 0.25, g)),
    ],
)
def test_what_is_seen_is_corrupted_and_what_is_told_is_not(corruption, corrupt):
    method = build("denoising", corruption=corruption)
    for training in (True, False):
        batch = method.train(training).augment(BATCH, generator())
        assert torch.equal(batch.corrupted, corrupt(IMAGES, generator()))
        assert torch.equal(batch.images, IMAGES)
    sheet = method.illustrate(IMAGES, generator())
    assert torch.equal(sheet["corrupted"], corrupt(IMAGES, generator()).clamp(0, 1))
    assert torch.equal(sheet["denoised"], method.reconstruct(corrupt(IMAGES, generator())))
    assert torch.equal(sheet["truth"], IMAGES)


@pytest.mark.parametrize("name", ["autoencoder", "sparse"])
def test_the_sheet_shows_images_and_reconstructions(name):
    method = build(name)
    sheet = method.illustrate(IMAGES, generator())
    assert list(sheet) == ["truth", "reconstruction"]
    assert torch.equal(sheet["reconstruction"], method.reconstruct(sheet["truth"]))


@pytest.mark.parametrize("target", [0.05, 0.5, 0.9])
def test_kl_sparsity_is_the_closed_form(target):
    logits = torch.randn(7, 4, generator=generator()) * 3
    rho = [sum(1 / (1 + math.exp(-float(logits[i, j]))) for i in range(7)) / 7 for j in range(4)]
    expected = sum(target * math.log(target / p) + (1 - target) * math.log((1 - target) / (1 - p)) for p in rho)
    assert float(kl_sparsity(logits, target)) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    reference = kl_divergence(Bernoulli(torch.tensor(target)), Bernoulli(logits.sigmoid().mean(0))).sum()
    torch.testing.assert_close(kl_sparsity(logits, target), reference, rtol=1e-5, atol=1e-5)


def test_kl_sparsity_is_zero_at_its_target_and_finite_where_sigmoids_round():
    at_target = torch.full((3, 2), math.log(0.05 / 0.95))
    assert float(kl_sparsity(at_target, 0.05)) == pytest.approx(0, abs=1e-6)
    for sign in (1, -1):
        logits = torch.full((3, 2), sign * 200.0, requires_grad=True)
        value = kl_sparsity(logits, 0.05)
        share = 0.95 if sign > 0 else 0.05  # log of the vanishing probability is -200
        entropy = 0.05 * math.log(0.05) + 0.95 * math.log(0.95)
        assert float(value.detach()) == pytest.approx(2 * (entropy + 200 * share), rel=1e-5)
        value.backward()
        assert logits.grad.isfinite().all()
        assert (logits.grad * sign > 0).all()
    with pytest.raises(ValueError, match=r"target must be in \(0, 1\); got 1"):
        kl_sparsity(torch.zeros(2, 2), 1)


def test_penalties_are_weighted_and_of_their_units():
    for weight in (0.0, 2.0):
        method = build("sparse", penalty={"name": "kl", "target": 0.2, "weight": weight})
        output = method(BATCH, "train")
        codes = method.encode(IMAGES)
        assert 0 < float(codes.min()) < float(codes.max()) < 1
        expected = kl_divergence(Bernoulli(torch.tensor(0.2)), Bernoulli(codes.mean(0))).sum()
        torch.testing.assert_close(output.metrics["sparsity"], expected)
        torch.testing.assert_close(output.loss, output.metrics["reconstruction"] + weight * expected)
        method = build("sparse", penalty={"name": "l1", "weight": weight})
        output = method(BATCH, "train")
        codes = method.encode(IMAGES)
        assert float(codes.min()) == 0 < float(codes.max())
        expected = sum(abs(float(code)) for code in codes.flatten()) / 6
        assert float(output.metrics["sparsity"]) == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(output.loss, output.metrics["reconstruction"] + weight * output.metrics["sparsity"])


@pytest.mark.parametrize(("penalty", "unit"), [("kl", False), ("l1", True)])
def test_the_dictionary_is_linear_and_of_unit_columns_for_l1(penalty, unit):
    method = build("sparse", penalty={"name": penalty})
    weight, bias = method.decoder.linear.weight.detach().clone(), method.decoder.linear.bias.detach()
    if unit:
        weight = torch.stack([column / column.square().sum().sqrt() for column in weight.T], 1)
    codes = torch.rand(3, 5, generator=generator())
    expected = (codes @ weight.T + bias).view(3, 1, 8, 8)
    torch.testing.assert_close(method.decoder(codes), expected)
    with torch.no_grad():
        method.decoder.linear.weight.mul_(7)
    assert torch.allclose(method.decoder(codes), expected, atol=1e-5) == unit
