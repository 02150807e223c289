import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from specs import make_spec

from mlml import models
from mlml.config import DeclarationError, EncoderConfig, parse
from mlml.models.cnn import CNN
from mlml.models.convnet import ConvNet

CONFIG = TypeAdapter(EncoderConfig)


def build(layers, spec, **numbers):
    return models.build(CONFIG.validate_python({"network": "convnet", "layers": layers, **numbers}), spec)


def sentence(layers, spec, **numbers):
    with pytest.raises(ValueError, match=r"^convnet: ") as caught:
        build(layers, spec, **numbers)
    return str(caught.value)


def faults(layers):
    with pytest.raises(DeclarationError) as caught:
        parse(ConvNet.Config, {"layers": layers}, "supervised.x.encoder")
    return caught.value.faults


# --- stacks against torch ---------------------------------------------------------------------------------------------


@st.composite
def stacks(draw):
    """Layers that the config takes; whether they fit an image is another matter."""
    layers, poolings = [], 0
    number = st.integers(1, 4)
    for _ in range(draw(st.integers(1, 7))):
        kinds = ["convolution", "transposed_convolution", "max_pooling", "average_pooling", *["unpooling"] * poolings]
        kind = draw(st.sampled_from(kinds))
        layer = {"layer": kind}
        if "convolution" in kind:
            padding = draw(st.sampled_from(["same", "valid", "full"]))
            # few widths, so that unpoolings often find the channels that they need
            layer |= {"channels": draw(st.integers(1, 2)), "kernel": draw(number), "stride": draw(st.integers(1, 2))}
            layer |= {"padding": padding, "dilation": draw(st.integers(1, 2))}
        elif kind != "unpooling":
            kernel = draw(number)
            layer |= {"kernel": kernel, "stride": kernel + draw(st.integers(0, 1))}
        poolings += {"max_pooling": 1, "unpooling": -1}.get(kind, 0)
        layers.append(layer)
    if draw(st.booleans()):
        layers += [{"layer": draw(st.sampled_from(["flatten", "global_pooling"]))}]
    if draw(st.booleans()):
        layers += [{"layer": "dropout", "prob": 0.2}, {"layer": "fully_connected", "width": draw(number)}]
    return layers


def by_torch(layers, x):
    """What torch makes of the image; RuntimeError or ValueError where it refuses, as for a grid without a pixel."""
    poolings = []
    for layer in layers:
        kind = layer["layer"]
        if "convolution" in kind:
            kernel, stride, dilation, padding = (layer[key] for key in ("kernel", "stride", "dilation", "padding"))
            reach = dilation * (kernel - 1) + 1
            transposed = kind == "transposed_convolution"
            shape = (x.shape[1], layer["channels"]) if transposed else (layer["channels"], x.shape[1])
            weight, zeros = torch.zeros(*shape, kernel, kernel), reach - 1 if padding == "full" else 0
            if transposed and padding == "same":
                x = F.conv_transpose2d(x, weight, stride=stride, dilation=dilation)
                x = F.pad(x, (0, stride, 0, stride))[..., : x.shape[2] - reach + stride, : x.shape[3] - reach + stride]
            elif transposed:
                x = F.conv_transpose2d(x, weight, None, stride, zeros, dilation=dilation)
            elif padding == "same":  # torch's own, of which a stride takes some
                x = F.conv2d(x, weight, None, 1, "same", dilation)[..., ::stride, ::stride]
            else:
                x = F.conv2d(x, weight, None, stride, zeros, dilation)
        elif kind == "max_pooling":
            size = x.shape[2:]
            x, indices = F.max_pool2d(x, layer["kernel"], layer["stride"], return_indices=True)
            poolings.append((indices, layer["kernel"], layer["stride"], size))
        elif kind == "average_pooling":
            x = F.avg_pool2d(x, layer["kernel"], layer["stride"])
        elif kind == "unpooling":
            indices, kernel, stride, size = poolings.pop()
            x = F.max_unpool2d(x, indices, kernel, stride, output_size=size)
        elif kind == "global_pooling":
            x = x.mean((2, 3))
        elif kind in ("flatten", "fully_connected"):
            x = x.flatten(1)
            x = x if kind == "flatten" else F.linear(x, torch.zeros(layer["width"], x.shape[1]))
        if 0 in x.shape:
            raise RuntimeError("torch lets a transposed convolution make a grid without a pixel")
    return x


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(max_examples=200, deadline=None)
@given(stacks(), st.integers(1, 3), st.integers(1, 14), st.integers(1, 14))
def test_a_stack_is_as_large_as_torchs_and_is_refused_where_torch_refuses(layers, channels, height, width):
    images = torch.rand(2, channels, height, width)
    try:
        wanted = by_torch(layers, images)
    except (RuntimeError, ValueError):
        assert "its input is" in sentence(layers, make_spec(channels, height, width), norm="none")
        return
    network = build(layers, make_spec(channels, height, width), norm="none").eval()
    assert (2, *network.output_shape) == wanted.shape
    assert network._run(images).shape == wanted.shape
    assert network(images).shape == (2, network.feature_dim) == wanted.shape[:2]


def test_a_stack_of_the_cnns_layers_is_the_cnn():
    torch.manual_seed(0)
    spec = make_spec(2, 9, 17, mean=0.4, std=0.3)  # odd sides, where both pad alike
    cnn = CNN(CNN.Config(width=3, num_stages=4), spec)
    layers = [{"layer": "convolution", "channels": 3 * 2**s, "stride": 1 if s == 0 else 2} for s in range(4)]
    ours = build(layers, spec)
    names = {f"layers.{n // 3}.{n % 3}.": f"stages.{n}." for n in range(12)}
    weights = cnn.state_dict()
    ours.load_state_dict(
        {key: weights[next((theirs + key[len(own) :] for own, theirs in names.items() if key.startswith(own)), key)]
         for key in ours.state_dict()}
    )  # fmt: skip
    images = torch.rand(4, 2, 9, 17)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(images), cnn.train(mode)(images))


SEGNET = [
    {"layer": "convolution", "channels": 4},
    {"layer": "max_pooling"},
    {"layer": "convolution", "channels": 6},
    {"layer": "max_pooling", "kernel": 3},
    {"layer": "convolution", "channels": 6},
    {"layer": "unpooling"},
    {"layer": "convolution", "channels": 4},
    {"layer": "unpooling"},
    {"layer": "convolution", "channels": 5, "activation": "none", "norm": "none"},
]


def test_unpoolings_undo_poolings_from_the_last_to_the_first():
    torch.manual_seed(0)
    network = build(SEGNET, make_spec(2, 13, 15)).eval()
    convolution = [layer for layer in network.layers if isinstance(layer, torch.nn.Sequential)]
    images = torch.rand(3, 2, 13, 15)
    a, first = F.max_pool2d(convolution[0](images), 2, return_indices=True)
    x = convolution[1](a)
    b, second = F.max_pool2d(x, 3, return_indices=True)
    y = convolution[3](F.max_unpool2d(convolution[2](b), second, 3, output_size=x.shape[2:]))
    wanted = convolution[4](F.max_unpool2d(y, first, 2, output_size=(13, 15)))
    torch.testing.assert_close(network.dense(images), wanted)
    assert network.dense(images).shape == (3, network.dense_dim, 13, 15) == (3, 5, 13, 15)
    torch.testing.assert_close(network(images), wanted.mean((2, 3)))
    assert network.dense(images).min() < 0  # the last layer has no activation, as declared


def test_unpoolings_run_in_bfloat16():
    torch.manual_seed(0)
    network, images = build(SEGNET, make_spec(2, 12, 12)), torch.rand(3, 2, 12, 12)
    whole = network.dense(images)
    with torch.autocast("cpu", torch.bfloat16):
        half = network.dense(images)
    assert half.dtype == torch.bfloat16
    half.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    # a maximum may move to another pixel of its window where two are equal in bfloat16, but hardly ever
    assert ((half - whole).abs() < 0.1).double().mean() > 0.95


def test_a_pooling_that_nothing_undoes_is_passed_over():
    layers = [*SEGNET[:2], {"layer": "transposed_convolution", "channels": 4}, {"layer": "max_pooling"}]
    layers += [{"layer": "unpooling"}]
    network = build(layers, make_spec(1, 8, 8)).eval()
    assert network.output_shape == (4, 8, 8)
    layers += [{"layer": "max_pooling"}, {"layer": "unpooling"}]
    assert build(layers, make_spec(1, 8, 8))(torch.rand(2, 1, 8, 8)).isfinite().all()


def test_lenet_can_be_declared():
    """LeCun et al. 1998: 6 and 16 feature maps, 120, 84 and 10 units; 61,706 weights with this padding on 28x28."""
    layers = [
        {"layer": "convolution", "channels": 6, "kernel": 5},
        {"layer": "average_pooling"},
        {"layer": "convolution", "channels": 16, "kernel": 5, "padding": "valid"},
        {"layer": "average_pooling"},
        *({"layer": "fully_connected", "width": width} for width in (120, 84, 10)),
    ]
    network = build(layers, make_spec(1, 28, 28), activation="tanh", norm="none")
    assert sum(parameter.numel() for parameter in network.parameters()) == 61_706
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_a_layers_own_norm_and_activation_go_before_the_networks():
    layers = [
        {"layer": "convolution", "channels": 4, "activation": "tanh"},
        {"layer": "convolution", "channels": 4, "norm": {"name": "group", "num_groups": 2}},
        {"layer": "fully_connected", "width": 3, "norm": "none", "activation": {"name": "elu", "alpha": 2.0}},
    ]
    network = build(layers, make_spec(), norm="instance", activation="gelu")
    kinds = [type(module).__name__ for module in network.layers.modules() if not list(module.children())]
    assert kinds == [
        *("Conv2d", "InstanceNorm2d", "Tanh", "Conv2d", "GroupNorm", "GELU"),
        *("Flatten", "Linear", "Identity", "ELU"),
    ]
    weighted = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    assert [module.bias is None for module in weighted] == [True, True, False]


def test_dropout_drops_in_training_alone():
    network = build([{"layer": "dropout", "prob": 0.3}, {"layer": "flatten"}], make_spec(1, 40, 40))
    ones = torch.ones(10, 1, 40, 40)
    assert (network(ones) == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(network.eval()(ones), torch.ones(10, 1600))


# --- sentences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        (
            [{"layer": "convolution", "channels": 2, "padding": "valid"}, {"layer": "max_pooling", "kernel": 8}],
            "convnet: layer 2 (max_pooling, kernel 8, stride 8): its input is 6x6, and floor((6 - 8) / 8) + 1 = 0 "
            "is less than 1; lower its kernel, leave out a layer before it that shrinks the grid, or prepare larger",
        ),
        (
            [{"layer": "convolution", "channels": 2, "padding": "valid", "kernel": 5, "dilation": 2, "stride": 3}],
            "convnet: layer 1 (convolution, kernel 5, stride 3, padding valid, dilation 2): its input is 8x8, and "
            "floor((8 - 9) / 3) + 1 = 0 is less than 1; lower",
        ),
        (
            [{"layer": "transposed_convolution", "channels": 2, "kernel": 20, "stride": 1, "padding": "full"}],
            "convnet: layer 1 (transposed_convolution, kernel 20, stride 1, padding full): its input is 8x8, and "
            "(8 - 1) * 1 + 2 - 20 = -11 is less than 1; lower",
        ),
        (
            [{"layer": "max_pooling"}, {"layer": "convolution", "channels": 5}, {"layer": "unpooling"}],
            "convnet: layer 3 (unpooling): its input is 5 channels of 4x4, but layer 1 (max_pooling, kernel 2, "
            "stride 2), which it undoes, has left 1 channels of 4x4; make the layers between them keep that shape",
        ),
    ],
)
def test_what_does_not_fit_the_image_is_told_with_layer_size_and_formula(layers, wanted):
    assert sentence(layers, make_spec(1, 8, 8)).startswith(wanted)


def test_norms_that_do_not_fit_are_refused_with_the_layer():
    layers = [{"layer": "convolution", "channels": 6}, {"layer": "convolution", "channels": 9, "stride": 8}]
    assert sentence(layers, make_spec(), norm={"name": "group", "num_groups": 2}).startswith(
        "convnet: layer 2 (convolution, kernel 3, stride 8, padding same): norm.num_groups must divide the 9 features"
    )
    assert "layer 2 (convolution, kernel 3, stride 8, padding same): an instance norm needs more than one" in sentence(
        layers, make_spec(), norm="instance"
    )
    layers = [{"layer": "fully_connected", "width": 4}]
    assert sentence(layers, make_spec(), norm="instance").startswith("convnet: layer 1 (fully_connected): an instance")


def test_a_stack_without_a_grid_of_the_images_size_tells_nothing_of_pixels():
    network = build(SEGNET[:6], make_spec(1, 12, 12))
    wanted = "layer 6, the last, must leave a grid of the image's 12x12 pixels to tell of each; it leaves 6 channels of"
    with pytest.raises(ValueError, match=wanted):
        network.dense(torch.rand(1, 1, 12, 12))
    with pytest.raises(ValueError, match="it leaves a vector of 6;"):
        _ = build([*SEGNET[:6], {"layer": "global_pooling"}], make_spec(1, 12, 12)).dense_dim


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        ([], ".layers: must"),
        (
            [{"layer": "unpooling"}],
            ".layers: layer 1 (unpooling): no max_pooling before it is left to be undone; add one or leave it out",
        ),
        (
            [{"layer": "max_pooling"}, {"layer": "unpooling"}, {"layer": "unpooling"}],
            ".layers: layer 3 (unpooling): no max_pooling before it is left",
        ),
        (
            [{"layer": "max_pooling", "kernel": 3, "stride": 2}, {"layer": "unpooling"}],
            ".layers: layer 2 (unpooling): the windows of layer 1 (max_pooling, kernel 3, stride 2) overlap, so two of "
            "its maxima may be one pixel; give that layer a stride of at least 3",
        ),
        (
            [{"layer": "fully_connected", "width": 3}, {"layer": "dropout"}, {"layer": "max_pooling"}],
            ".layers: layer 3 (max_pooling): needs a grid, but layer 1 (fully_connected) leaves a vector; put it",
        ),
        (
            [{"layer": "flatten"}, {"layer": "global_pooling"}],
            ".layers: layer 2 (global_pooling): needs a grid, but layer 1 (flatten) leaves a vector; leave one of",
        ),
        ([{"layer": "convolutoin"}], ".layers.0.layer: unknown value 'convolutoin'; did you mean 'convolution'?"),
        ([{"channels": 3}], ".layers.0.layer: required, but not given"),
        ([{"layer": "convolution", "chanels": 3}], ".layers.0.chanels: unknown key; did you mean 'channels'? (known: "),
        ([{"layer": "convolution", "channels": 0}], ".layers.0.channels: must be greater than 0; got 0"),
        (
            [{"layer": "convolution", "channels": 1, "padding": "sam"}],
            ".layers.0.padding: unknown value 'sam'; did you mean 'same'?",
        ),
        (
            [{"layer": "convolution", "channels": 1, "activation": "rleu"}],
            ".layers.0.activation: unknown value 'rleu'; did you mean 'relu'?",
        ),
        ([{"layer": "dropout", "prob": 1.0}], ".layers.0.prob: must be less than 1; got 1.0"),
    ],
)
def test_what_is_wrong_whatever_the_data_is_a_fault_of_the_declaration(layers, wanted):
    assert any(fault.startswith(f"supervised.x.encoder{wanted}") for fault in faults(layers)), faults(layers)
