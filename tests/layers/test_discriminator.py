import pytest
import torch

from mlml.layers.discriminator import ConvDiscriminator


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
