import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mlml.layers.deconvolution import Decoder, UpsampleConv2d
from mlml.layers.memory import channels_last
from mlml.layers.normalize import Normalize


def test_normalize_gives_zero_mean_and_unit_deviation():
    torch.manual_seed(0)
    images = torch.rand(50, 3, 6, 5) * torch.tensor([0.2, 0.5, 1.0])[:, None, None]
    mean = images.mean((0, 2, 3))
    std = images.std((0, 2, 3), unbiased=False)
    result = Normalize(mean.tolist(), std.tolist())(images)
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(result.std((0, 2, 3), unbiased=False), torch.ones(3), rtol=1e-5, atol=0)


def test_normalize_is_saved_with_the_network():
    saved = Normalize([0.1, 0.2], [0.3, 0.4]).state_dict()
    other = Normalize([0.0, 0.0], [1.0, 1.0])
    other.load_state_dict(saved)
    images = torch.tensor([0.5, 0.5]).view(1, 2, 1, 1)
    torch.testing.assert_close(other(images).flatten(), torch.tensor([4 / 3, 0.75]))
    assert not list(other.parameters())


@pytest.mark.parametrize(
    ("mean", "std", "sentence"),
    [
        ([0.1], [0.2, 0.3], "equally long; got 1 and 2"),
        ([0.1, 0.1], [0.2, 0.0], "'std' of channel 1 must be greater than 0; got 0.0"),
        ([0.1], [float("nan")], "must be greater than 0; got nan"),
    ],
)
def test_normalize_refuses_statistics_that_cannot_be(mean, std, sentence):
    with pytest.raises(ValueError, match=sentence):
        Normalize(mean, std)


def test_normalize_refuses_another_number_of_channels():
    with pytest.raises(ValueError, match="must have 3 channels; got 1"):
        Normalize([0.5] * 3, [0.2] * 3)(torch.rand(2, 1, 4, 4))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_carries_over_to_the_next_convolution(channels):
    images = torch.rand(2, channels, 6, 5)
    laid = channels_last(images)
    assert torch.equal(laid, images)
    convolution = torch.nn.Conv2d(channels, 4, 3)
    features = convolution(laid)
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(features, convolution(images))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_upsampling_convolution_is_upsampling_then_convolution(before, after, height, width, bias):
    torch.manual_seed(0)
    layer = UpsampleConv2d(before, after, bias=bias).double()
    features = torch.rand(2, before, height, width, dtype=torch.float64, requires_grad=True)
    wanted = F.conv2d(F.interpolate(features, scale_factor=2, mode="nearest"), layer.weight, layer.bias, padding=1)
    given_back = layer(features)
    torch.testing.assert_close(given_back, wanted)
    probe = torch.rand_like(wanted)
    owned = [features, *layer.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad((given_back * probe).sum(), owned),
        torch.autograd.grad((wanted * probe).sum(), owned),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (16, 16), (9, 13), (15, 8), (33, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_decoder_makes_the_size_asked_for(size, channels):
    torch.manual_seed(0)
    decoder = Decoder(5, channels, *size, base_width=2)
    logits = decoder(torch.randn(3, 5))
    assert logits.shape == (3, channels, *size)
    logits.square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(value.is_contiguous() for value in decoder.state_dict().values())


@pytest.mark.parametrize("size", [(7, 7), (8, 7), (1, 64)])
def test_decoder_refuses_small_images(size):
    with pytest.raises(ValueError, match=f"at least 8x8; got {size[0]}x{size[1]};"):
        Decoder(4, 1, *size, base_width=2)


def test_decoder_has_no_checkerboard():
    # From a grid that is the same everywhere every pixel away from the border must be the same.
    torch.manual_seed(0)
    decoder = Decoder(4, 1, 64, 64, base_width=4).eval()
    with torch.no_grad():
        for parameter in decoder.expand.parameters():
            grid = parameter.unflatten(0, (decoder.norm.num_features, *decoder.sizes[0]))
            grid.copy_(grid[:, :1, :1].expand_as(grid))
        logits = decoder(torch.randn(2, 4))
    inner = logits[:, :, 24:40, 24:40]
    torch.testing.assert_close(inner, inner[:, :, :1, :1].expand_as(inner), rtol=1e-4, atol=1e-6)
    assert logits.std() > 1e-4  # the border differs: the test sees differences


def test_decoder_can_fit_any_few_images():
    torch.manual_seed(0)
    images = (torch.rand(4, 1, 12, 9) > 0.5).float()
    decoder = Decoder(4, 1, 12, 9, base_width=16)
    latents = torch.eye(4)
    optimizer = torch.optim.Adam(decoder.parameters(), 0.01)
    for _ in range(150):
        loss = F.binary_cross_entropy_with_logits(decoder(latents), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((decoder(latents) > 0) == images.bool()).double().mean() > 0.99
