import pytest
import torch

from mlml.config import PlainNorm
from mlml.layers.discriminator import ConvDiscriminator, normalise_spectrally


@pytest.mark.parametrize(
    ("size", "convolutions"), [((64, 64), 4), ((8, 8), 1), ((17, 30), 2), ((9, 30), 1), ((4, 4), 1)]
)
def test_grids_are_halved_to_four(size, convolutions):
    discriminator = ConvDiscriminator(3, *size, 8)
    found = [layer for layer in discriminator.layers if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in found] == [8 * 2**k for k in range(convolutions)]
    assert discriminator(torch.rand(5, 3, *size)).shape == (5,)


def test_it_tells_light_from_dark_once_trained():
    torch.manual_seed(0)
    discriminator = ConvDiscriminator(1, 16, 16, 8)
    optimizer = torch.optim.Adam(discriminator.parameters(), 0.01)
    noise = 0.1 * torch.randn(32, 1, 16, 16)
    real = torch.arange(32) < 16
    images = noise + torch.where(real, 0.5, -0.5)[:, None, None, None]
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(discriminator(images), real.float()).backward()
        optimizer.step()
    assert ((discriminator.eval()(images) > 0) == real).all()


@pytest.mark.parametrize(("name", "found"), [("batch", 1), ("layer", 1), ("instance", 1), ("none", 0)])
def test_the_norm_is_the_declared_one(name, found):
    discriminator = ConvDiscriminator(1, 16, 16, 4, PlainNorm(name=name))
    kinds = {"batch": torch.nn.BatchNorm2d, "layer": torch.nn.GroupNorm, "instance": torch.nn.InstanceNorm2d}
    assert sum(isinstance(layer, tuple(kinds.values())) for layer in discriminator.layers) == found
    assert all(isinstance(layer, kinds[name]) for layer in discriminator.layers if type(layer) in kinds.values())
    assert (discriminator.layers[2].bias is None) == (name != "none")


def test_spectrally_normalised_weights_have_a_largest_singular_value_of_1():
    """By SVD of each weight as the matrix of outputs by all the rest."""
    torch.manual_seed(0)
    network = torch.nn.ModuleList([ConvDiscriminator(1, 16, 16, 4, PlainNorm(name="none")), torch.nn.Embedding(5, 8)])
    images, labels = torch.rand(2, 1, 16, 16), torch.arange(5)
    plain = network[0](images)
    normalise_spectrally(network)
    for _ in range(200):
        network[0](images), network[1](labels)
    network.eval()
    weights = [network[0].layers[0].weight, network[0].layers[2].weight, network[0].to_logit.weight, network[1].weight]
    for weight in weights:
        assert float(torch.linalg.svdvals(weight.detach().flatten(1))[0]) == pytest.approx(1, abs=1e-4)
    assert not torch.equal(network[0](images), plain)
    assert torch.equal(network[0](images), network[0](images))
    assert sum(name.endswith((".u", ".v")) for name in network.state_dict()) == 2 * len(weights)


def test_spectral_norm_is_torchs_use_after_use():
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    normalise_spectrally(ours)
    torch.nn.utils.parametrizations.spectral_norm(theirs)
    vectors = ours.parametrizations.weight[0]
    for name in "uv":  # theirs begin where ours do
        getattr(theirs.parametrizations.weight[0], f"_{name}").copy_(getattr(vectors, name))
    x = torch.randn(3, 6)
    for training in (True, True, False, False, True):
        before = vectors.u.clone()
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x))
        assert torch.equal(vectors.u, before) is not training
    gradients = [torch.autograd.grad(layer(x).square().sum(), layer.parameters()) for layer in (ours, theirs)]
    for one, other in zip(*(sorted(found, key=lambda gradient: gradient.ndim) for found in gradients), strict=True):
        torch.testing.assert_close(one, other)
