import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlml.layers import arithmetic
from mlml.layers.convolution import Conv2d, ConvTranspose2d, unpool

SIDES = st.integers(1, 19)
KERNELS = st.integers(1, 6)
STRIDES = st.integers(1, 5)
PADDINGS = st.sampled_from(["same", "valid", "full"])
DILATIONS = st.integers(1, 3)
MANY = settings(max_examples=200, deadline=None)


def outcome(layer, *shape):
    """Height and width that torch makes, or None where it refuses or makes a grid without a pixel."""
    try:
        size = tuple(layer(torch.zeros(1, 1, *shape)).shape[2:])
    except RuntimeError:
        return None
    return size if min(size) >= 1 else None


def told(height, width):
    return (height.size, width.size) if min(height.size, width.size) >= 1 else None


def tensorflow_same(size, reach, stride):
    """Zeros before and after, as TensorFlow's documentation of `padding="SAME"` says them."""
    total = max(reach - stride, 0) if size % stride == 0 else max(reach - size % stride, 0)
    return total // 2, total - total // 2


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@MANY
@given(SIDES, SIDES, KERNELS, STRIDES, PADDINGS, DILATIONS)
def test_convolutions_are_as_large_as_torchs_and_hold_the_same(height, width, kernel, stride, padding, dilation):
    numbers = (kernel, stride, padding, dilation)
    layer = Conv2d(1, 2, *numbers).double()
    sides = [arithmetic.convolution(side, *numbers) for side in (height, width)]
    images = torch.randn(2, 1, height, width, dtype=torch.float64)
    reach = dilation * (kernel - 1) + 1
    padded = images
    if padding == "same":
        (top, bottom), (left, right) = (tensorflow_same(side, reach, stride) for side in (height, width))
        padded = F.pad(images, (left, right, top, bottom))
    try:
        zeros = reach - 1 if padding == "full" else 0
        wanted = F.conv2d(padded, layer.weight, layer.bias, stride, zeros, dilation)
    except RuntimeError:
        assert told(*sides) is None
        with pytest.raises(RuntimeError):
            layer(images)
        return
    assert told(*sides) == tuple(wanted.shape[2:])
    torch.testing.assert_close(layer(images), wanted)
    if padding == "same" and stride == 1:  # torch has this one itself
        torch.testing.assert_close(wanted, F.conv2d(images, layer.weight, layer.bias, 1, "same", dilation))


@MANY
@given(SIDES, SIDES, KERNELS, STRIDES)
def test_poolings_are_as_large_as_torchs(height, width, kernel, stride):
    sides = [arithmetic.pooling(side, kernel, stride) for side in (height, width)]
    for layer in (torch.nn.MaxPool2d(kernel, stride), torch.nn.AvgPool2d(kernel, stride)):
        assert told(*sides) == outcome(layer, height, width)


@MANY
@given(SIDES, SIDES, KERNELS, STRIDES, PADDINGS, DILATIONS)
def test_transposed_convolutions_are_the_adjoints(height, width, kernel, stride, padding, dilation):
    """<conv(x), y> = <x, transposed(y)> for all x and y, and the size is that which the convolution would take."""
    numbers = (kernel, stride, padding, dilation)
    sides = [arithmetic.transposed_convolution(side, *numbers) for side in (height, width)]
    transposed = ConvTranspose2d(2, 3, *numbers, bias=False).double()
    if told(*sides) is None:
        assert outcome(ConvTranspose2d(1, 1, *numbers), height, width) is None
        return
    forward = Conv2d(3, 2, *numbers, bias=False).double()
    forward.weight.data = transposed.weight.data
    x = torch.randn(1, 3, *told(*sides), dtype=torch.float64)
    y = torch.randn(1, 2, height, width, dtype=torch.float64)
    assert transposed(y).shape == x.shape
    torch.testing.assert_close((forward(x) * y).sum(), (x * transposed(y)).sum())


@MANY
@given(SIDES, KERNELS, STRIDES, PADDINGS, DILATIONS)
def test_the_formula_is_that_of_the_size(size, kernel, stride, padding, dilation):
    from math import ceil, floor

    sides = [
        function(size, kernel, stride, padding, dilation)
        for function in (arithmetic.convolution, arithmetic.transposed_convolution)
    ]
    for side in (*sides, arithmetic.pooling(size, kernel, stride)):
        assert eval(side.formula, {"ceil": ceil, "floor": floor}) == side.size


@MANY
@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 2))
def test_unpooling_is_torchs(channels, height, width, kernel, more):
    assume(min(height, width) >= kernel)
    images = torch.randn(2, channels, height, width, dtype=torch.float64)
    maxima, indices = F.max_pool2d(images, kernel, kernel + more, return_indices=True)
    values = torch.randn_like(maxima).requires_grad_()
    ours = unpool(values, indices, (height, width))
    theirs = F.max_unpool2d(values, indices, kernel, kernel + more, output_size=(height, width))
    assert torch.equal(ours, theirs)
    weights = torch.randn_like(ours)
    gradients = [torch.autograd.grad((grid * weights).sum(), values)[0] for grid in (ours, theirs)]
    assert torch.equal(*gradients)


def test_unpooling_keeps_the_precision_of_its_values():
    maxima, indices = F.max_pool2d(torch.rand(1, 2, 4, 4), 2, return_indices=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert unpool(maxima.bfloat16(), indices, (4, 4)).dtype == torch.bfloat16
