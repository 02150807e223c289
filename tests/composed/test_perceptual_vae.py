import numpy as np
import pytest
import torch

from mlml import model_folder
from mlml.composed._perceptual import feature_distance
from mlml.generative._variational import Noisy, kl_per_dimension, log_likelihood_of_pixels

TRAIN = {"steps": 1, "batch_size": 16}
ENCODER = {"network": "mlp", "hidden_widths": [16], "norm": "none"}
BASE = {"network": "cnn", "width": 4, "num_stages": 3}


@pytest.fixture
def base(blob_data):
    torch.manual_seed(1)
    return model_folder.build("supervised", "classifier", {"encoder": BASE, "train": TRAIN}, blob_data.spec)


def perceptual_vae(base, **numbers):
    torch.manual_seed(0)
    config = {"base": "below", "encoder": ENCODER, "latent_dim": 3, "decoder_width": 4, "train": TRAIN, **numbers}
    return model_folder.build("composed", "perceptual_vae", config, base.spec, base)


def images(count, seed=0):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def layer_by_layer(classifier, pictures):
    """Activations behind each convolution, by the layers themselves."""
    grid, found = classifier.encoder.normalize(pictures), []
    for layer in classifier.encoder.stages:
        grid = layer(grid)
        if isinstance(layer, torch.nn.ReLU):
            found.append(grid.detach().double().numpy())
    return found


@pytest.mark.parametrize("layers", [None, [1], [3, 1]])
@pytest.mark.parametrize("normalise", [False, True])
def test_the_distance_is_the_slow_sum(base, layers, normalise):
    method = perceptual_vae(base, layers=layers, normalise=normalise)
    first, second = images(2), images(2, 1)
    measured = feature_distance(method.features(first), method.features(second), normalise)
    grids = [layer_by_layer(base, pictures) for pictures in (first, second)]
    for number in range(2):
        total = 0.0
        for layer in layers or (1, 2, 3):
            ours, theirs = (grid[layer - 1][number] for grid in grids)
            channels, height, width = ours.shape
            for y in range(height):
                for x in range(width):
                    a, b = ours[:, y, x], theirs[:, y, x]
                    if normalise:
                        a, b = (v / max(np.sqrt((v**2).sum()), 1e-12) for v in (a, b))
                        total += ((a - b) ** 2).sum() / (height * width)
                    else:
                        total += ((a - b) ** 2).sum() / (2 * channels * height * width)
        assert measured[number].item() == pytest.approx(total, rel=1e-4)


def test_an_image_is_at_no_distance_from_itself(base):
    method = perceptual_vae(base)
    for normalise in (False, True):
        grids = method.features(images(3))
        assert feature_distance(grids, grids, normalise).tolist() == [0, 0, 0]


def test_the_loss_is_the_weighted_sum(base):
    method = perceptual_vae(base, pixel_weight=0.3, feature_weight=7.0, beta=0.5).eval()
    batch = Noisy(images(5), torch.randn(5, 3, generator=torch.Generator().manual_seed(2)))
    loss, metrics = method(batch, "train")
    mu, log_var = method.infer(batch.images)
    logits = method.logits(mu + (0.5 * log_var).exp() * batch.noise, torch.zeros(5, 0))
    pixel = -log_likelihood_of_pixels(logits, batch.images, "gaussian").mean()
    feature = feature_distance(method.features(logits.sigmoid()), method.features(batch.images)).mean()
    torch.testing.assert_close(metrics["pixel"], pixel)
    torch.testing.assert_close(metrics["feature"], feature)
    torch.testing.assert_close(metrics["reconstruction"], 0.3 * pixel + 7 * feature)
    torch.testing.assert_close(loss, 0.3 * pixel + 7 * feature + 0.5 * kl_per_dimension(mu, log_var).sum(1).mean())


def test_the_gradient_passes_through_the_base_to_the_decoder(base):
    """And leaves none in the base, whose running statistics stay as well."""
    before = {key: value.clone() for key, value in base.state_dict().items()}
    method = perceptual_vae(base, beta=0.0).train()
    method(Noisy(images(6), torch.zeros(6, 3)), "train").loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.decoder.to_logits.parameters())
    assert all(parameter.grad is None for parameter in base.parameters())
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())


def test_stages_that_the_base_lacks_are_refused(base):
    with pytest.raises(
        ValueError, match=r"perceptual_vae: layers: the base's encoder, of 'cnn', has the stages 1 to 3"
    ):
        perceptual_vae(base, layers=[2, 4])


@pytest.mark.parametrize(
    "network",
    [
        {"network": "cnn", "width": 4, "num_stages": 2},
        {"network": "resnet", "depth": 8, "width": 4},
        {"network": "resnet", "depth": 18, "width": 4},
        {
            "network": "convnet",
            "layers": [
                {"layer": "convolution", "channels": 4, "kernel": 3, "padding": "same"},
                {"layer": "max_pooling", "kernel": 2},
                {"layer": "convolution", "channels": 6, "kernel": 3, "padding": "same"},
                {"layer": "global_pooling"},
            ],
        },
    ],
    ids=lambda network: f"{network['network']}{network.get('depth', '')}",
)
def test_grids_are_what_the_network_passes_through(network, blob_data):
    from mlml import models
    from mlml.declaration import resolve

    entry = {"method": "classifier", "dataset": "blobs", "encoder": network, "train": TRAIN}
    config = resolve("supervised", "x", entry).config.encoder
    torch.manual_seed(0)
    built = models.build(config, blob_data.spec).eval()
    grids = built.grids(images(2))
    assert len(grids) == config.num_grids
    torch.testing.assert_close(grids[-1].mean((2, 3)), built(images(2)))
    assert [grid.ndim for grid in grids] == [4] * len(grids)
