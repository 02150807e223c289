import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from specs import make_spec

from mlml import model_folder
from mlml.data import lab
from mlml.data.batches import Batch
from mlml.pretext.colorization import annealed_mean, rebalancing, smoothed, soft_encoding

MLP = {"network": "mlp", "hidden_widths": [16]}
CENTRES = torch.tensor(lab.gamut(10.0))


def build(size=8, encoder=MLP, **numbers):
    config = {"encoder": encoder, "train": {"steps": 1}, **numbers}
    return model_folder.build("pretext", "colorization", config, make_spec(3, size, size, mean=0.4, std=0.2))


def coloured(method, b=4, size=8, seed=0):
    images = torch.rand(b, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return method.augment(Batch(images, torch.zeros(b)), torch.Generator().manual_seed(1))


def slow_encoding(ab, centres, sigma):
    """Z of one colour over all bins."""
    distances = [math.hypot(ab[0] - a, ab[1] - b) for a, b in centres]
    nearest = sorted(range(len(centres)), key=lambda q: distances[q])[:5]
    weights = {q: math.exp(-(distances[q] ** 2) / (2 * sigma**2)) for q in nearest}
    return [weights.get(q, 0.0) / sum(weights.values()) for q in range(len(centres))]


def slow_balance(prior, centres, sigma, uniform_weight):
    """Eq. 4 with the smoothed distribution, as loops."""
    count = len(centres)
    smooth = [0.0] * count
    for r in range(count):
        kernel = [
            math.exp(-sum((x - y) ** 2 for x, y in zip(c, centres[r], strict=True)) / (2 * sigma**2)) for c in centres
        ]
        for q in range(count):
            smooth[q] += prior[r] * kernel[q] / sum(kernel)
    weights = [1 / ((1 - uniform_weight) * p + uniform_weight / count) for p in smooth]
    mean = sum(p * w for p, w in zip(smooth, weights, strict=True))
    return smooth, [w / mean for w in weights]


def random_prior(seed, count=20):
    prior = np.random.default_rng(seed).random(count) ** 4
    return prior / prior.sum()


def test_the_soft_encoding_is_that_of_the_loop():
    ab = 160 * torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 80
    bins, weights = soft_encoding(ab, CENTRES.double(), 5.0)
    assert bins.shape == weights.shape == (30, 5)
    for n in range(30):
        z = np.zeros(len(CENTRES))
        z[bins[n]] = weights[n]
        np.testing.assert_allclose(z, slow_encoding(ab[n].tolist(), CENTRES.tolist(), 5.0), atol=1e-9)
        assert weights[n].argmax() == 0


@given(seed=st.integers(0, 99), sigma=st.floats(1, 20), uniform_weight=st.floats(0.01, 1))
def test_the_rebalancing_is_eq_4(seed, sigma, uniform_weight):
    prior, centres = random_prior(seed), CENTRES[50:70].double()
    smooth = smoothed(torch.tensor(prior), centres, sigma)
    weights = rebalancing(smooth, uniform_weight)
    expected = slow_balance(prior.tolist(), centres.tolist(), sigma, uniform_weight)
    np.testing.assert_allclose(smooth, expected[0], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(weights, expected[1], rtol=1e-6)
    assert float(smooth.sum()) == pytest.approx(1)
    assert float((smooth * weights).sum()) == pytest.approx(1)  # their mean


def test_rare_colours_weigh_more_and_without_rebalancing_all_the_same():
    smooth = torch.tensor([0.7, 0.2, 0.1, 0.0])
    weights = rebalancing(smooth, 0.5)
    assert (weights.diff() > 0).all()
    assert weights[0] == pytest.approx(
        float(weights[3]) * 0.125 / (0.35 + 0.125)
    )  # a bin of none weighs 1 / (lambda / Q)
    torch.testing.assert_close(rebalancing(smooth, 1.0), torch.ones(4))


@pytest.mark.parametrize("temperature", [1.0, 0.38, 1e-4])
def test_the_annealed_mean_is_eq_5(temperature):
    logits = torch.randn(2, 6, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centres = CENTRES[:6].double()
    found = annealed_mean(logits, centres, temperature)
    for i, row, column in np.ndindex(2, 3, 2):
        z = logits[i, :, row, column].softmax(0).numpy()
        powers = (z / z.max()) ** (1 / temperature)
        expected = (powers[:, None] * centres.numpy()).sum(0) / powers.sum()
        np.testing.assert_allclose(found[i, :, row, column], expected, rtol=1e-9, atol=1e-9)


def test_the_loss_is_eq_2_of_every_pixel():
    method = build().eval()
    method.prior.copy_(torch.tensor(random_prior(1, len(CENTRES))))
    batch = coloured(method, 2)
    logits = method.head(method.encoder, batch.grey)
    _, balance = slow_balance(method.prior.tolist(), CENTRES.tolist(), 5.0, 0.5)
    total = 0.0
    for i, row, column in np.ndindex(2, 8, 8):
        z = slow_encoding(batch.ab[i, :, row, column].tolist(), CENTRES.tolist(), 5.0)
        log_probabilities = logits[i, :, row, column].log_softmax(0).tolist()
        total -= balance[int(np.argmax(z))] * sum(a * b for a, b in zip(z, log_probabilities, strict=True))
    assert float(method(batch, "train").loss) == pytest.approx(total / 128, rel=1e-4)


def test_the_regression_is_eq_1_of_every_pixel():
    method = build(objective="regression").eval()
    batch = coloured(method, 2)
    predicted = method.head(method.encoder, batch.grey)
    output = method(batch, "train")
    assert predicted.shape == (2, 2, 8, 8)
    losses = [
        0.5 * float((predicted[i, :, y, x] - batch.ab[i, :, y, x] / 110).norm()) ** 2 for i, y, x in np.ndindex(2, 8, 8)
    ]
    assert float(output.loss) == pytest.approx(np.mean(losses), rel=1e-5)
    errors = [float((110 * predicted[i, :, y, x] - batch.ab[i, :, y, x]).norm()) for i, y, x in np.ndindex(2, 8, 8)]
    assert float(output.metrics["ab_error"]) == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_prior_is_the_share_of_each_bin_in_the_batches_so_far():
    method, centres = build(), CENTRES.tolist()
    nearest = []
    for seed in range(3):
        batch = coloured(method, seed=seed)
        method(batch, "train")
        pixels = batch.ab.movedim(1, -1).flatten(0, 2)
        nearest += [min(range(len(centres)), key=lambda q: math.dist(p, centres[q])) for p in pixels.tolist()]
        expected = np.bincount(nearest, minlength=len(CENTRES)) / len(nearest)
        np.testing.assert_allclose(method.prior, expected, atol=1e-6)
    method.eval()(batch, "train")
    np.testing.assert_allclose(method.prior, expected, atol=1e-6)
    assert method.batches_seen == 3


def test_features_are_without_colour():
    method = build().eval()
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    grey = lab.neutral(images)
    torch.testing.assert_close(method.encode(images), method.encode(grey), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(method.encode(images), method.encoder(images), rtol=1e-2)


@pytest.mark.parametrize(("size", "stride"), [(8, 1), (16, 2), (32, 4), (34, 2), (35, 1), (256, 4)])
def test_the_stride_follows_from_the_size(size, stride):
    method = build(size, {"network": "cnn", "width": 4})
    assert method.stride == stride
    if size < 100:
        batch = coloured(method, 2, size)
        assert batch.ab.shape == (2, 2, size // stride, size // stride)
        assert method(batch, "train").loss.isfinite()


def test_a_colour_of_a_stride_is_the_mean_of_its_pixels():
    method = build(16, {"network": "unet", "width": 4, "num_stages": 2}, stride=4).eval()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = method.augment(Batch(images, torch.zeros(2)), torch.Generator())
    torch.testing.assert_close(batch.ab[1, :, 2, 3], lab.rgb_to_lab(images)[1, 1:, 8:12, 12:16].mean((1, 2)))
    assert method.head(method.encoder, batch.grey).shape == (2, len(CENTRES), 4, 4)


def test_pictures_of_a_perfect_prediction_are_the_truth():
    method = build(objective="regression").eval()
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    method._colours = lambda predicted: lab.rgb_to_lab(images)[:, 1:]
    rows = method.illustrate(images, torch.Generator())
    assert list(rows) == ["grey", "coloured", "image"]
    torch.testing.assert_close(rows["coloured"], images, rtol=0, atol=1e-4)
    assert torch.equal(rows["grey"], lab.neutral(images))


def test_refusals():
    config = {"encoder": MLP, "train": {"steps": 1}}
    with pytest.raises(ValueError, match=r"images of 'made' must have 3 channels, .*; got 1; give data in colour"):
        model_folder.build("pretext", "colorization", config, make_spec(1, 8, 8))
    with pytest.raises(ValueError, match=r"colorization\.stride: must divide the sides of the images, 8x8; got 3"):
        build(stride=3)
