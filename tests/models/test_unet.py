import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from specs import make_spec

from mlml import models
from mlml.models.unet import UNet


def build(spec, **numbers):
    return models.build(UNet.Config(**{"width": 3, "num_stages": 3, **numbers}), spec)


def test_it_is_the_papers_figure_by_hand():
    torch.manual_seed(0)
    network = build(make_spec(2, 8, 12, mean=0.4, std=0.3), norm="none")
    weights = network.state_dict()

    def stage(x, name):
        for layer in (0, 3):
            x = F.conv2d(x, weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"], padding=1).relu()
        return x

    def up(x, number):
        weight, bias = weights[f"up.{number}.weight"], weights[f"up.{number}.bias"]
        grown = torch.zeros(len(x), weight.shape[1], 2 * x.shape[2], 2 * x.shape[3])
        for row in range(2):
            for column in range(2):  # stride 2 and kernel 2: each output pixel is made by one weight of one input pixel
                grown[..., row::2, column::2] = torch.einsum("bchw,cd->bdhw", x, weight[..., row, column])
        return grown + bias[:, None, None]

    images = torch.rand(2, 2, 8, 12)
    first = stage((images - 0.4) / 0.3, "down.0")
    second = stage(F.max_pool2d(first, 2), "down.1")
    coarsest = stage(F.max_pool2d(second, 2), "down.2")
    x = stage(torch.cat([second, up(coarsest, 0)], 1), "joined.0")
    x = stage(torch.cat([first, up(x, 1)], 1), "joined.1")
    torch.testing.assert_close(network.dense(images), x)
    torch.testing.assert_close(network(images), torch.cat([coarsest.mean((2, 3)), x.mean((2, 3))], 1))
    assert network.dense(images).shape == (2, network.dense_dim, 8, 12) == (2, 3, 8, 12)
    assert network.feature_dim == 12 + 3


def test_the_papers_network_is_as_large_as_it_is_known_to_be():
    """31,031,685 weights with one input channel and a 1x1 convolution to five classes, counted by the figure."""
    with torch.device("meta"):
        network = UNet(UNet.Config(width=64, num_stages=5, norm="none"), make_spec(1, 64, 64))
    convolutions = 0
    for stage in range(5):
        before, after = 64 * 2 ** (stage - 1) if stage else 1, 64 * 2**stage
        convolutions += 9 * before * after + 9 * after * after + 2 * after
        if stage < 4:  # on the way up
            convolutions += 2 * after * after * 4 + after + 9 * 2 * after * after + 9 * after * after + 2 * after
    assert sum(parameter.numel() for parameter in network.parameters()) == convolutions


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 21), st.integers(1, 21), st.integers(1, 4))
def test_any_size_whose_stages_have_a_window_fits(height, width, num_stages):
    sides = [(height, width)]
    for _ in range(num_stages - 1):
        sides.append(((sides[-1][0] + 1) // 2, (sides[-1][1] + 1) // 2))
    if any(min(size) < 2 for size in sides[:-1]):
        with pytest.raises(ValueError, match=r"^unet: stage \d \(max_pooling, kernel 2, stride 2\): its input is \d+x"):
            build(make_spec(1, height, width), width=2, num_stages=num_stages)
        return
    network = build(make_spec(1, height, width), width=2, num_stages=num_stages).eval()
    assert network.dense(torch.rand(1, 1, height, width)).shape == (1, 2, height, width)


def test_what_does_not_fit_is_told_with_stage_size_and_formula():
    wanted = (
        r"^unet: stage 4 \(max_pooling, kernel 2, stride 2\): its input is 1x2, and floor\(\(1 - 2\) / 2\) \+ 1 = 0 is "
        r"less than 1; lower num_stages to 3 or prepare larger images$"
    )
    with pytest.raises(ValueError, match=wanted):
        build(make_spec(1, 4, 8), num_stages=4)
    with pytest.raises(ValueError, match=r"^unet: stage 3: an instance norm needs more than one pixel; got 1x1; lower"):
        build(make_spec(1, 4, 4), norm="instance")
    with pytest.raises(ValueError, match=r"^unet: stage 1: norm.num_groups must divide the 3 features; got 2"):
        build(make_spec(1, 8, 8), norm={"name": "group", "num_groups": 2})


def test_a_pixel_knows_the_detail_and_the_whole():
    torch.manual_seed(0)
    network = build(make_spec(1, 16, 16), norm="none", activation="tanh").eval()
    images = torch.rand(1, 1, 16, 16).requires_grad_()
    (gradient,) = torch.autograd.grad(network.dense(images)[0, :, 8, 8].sum(), images)
    assert (gradient[0, 0] != 0).all()  # 16 pixels are well within the reach of three stages
    assert gradient[0, 0].abs().argmax() in [16 * row + column for row in (7, 8, 9) for column in (7, 8, 9)]
