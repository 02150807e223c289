import ast
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from pydantic import ValidationError
from specs import make_spec

from mlml import activations, catalogue, initialisers, models
from mlml.config import DeclarationError, NetworkConfig
from mlml.models.cnn import CNN
from mlml.models.mlp import MLP
from mlml.models.resnet import ResNet

NETWORKS = catalogue.names("models")


LAYERS = (
    {"layer": "convolution", "channels": 4},
    {"layer": "max_pooling"},
    {"layer": "transposed_convolution", "channels": 4, "kernel": 3, "stride": 1},
    {"layer": "unpooling"},
    {"layer": "fully_connected", "width": 6},
)
"""Of a small network of declared layers."""


def declared(name, **numbers):
    return catalogue.config_class("models", name).model_validate({"network": name, **numbers})


def small(name, **numbers):
    """A config of the network that is quick to run."""
    quick = {
        "mlp": {"hidden_widths": (12, 7)},
        "cnn": {"width": 4},
        "vit": {"dim": 8, "depth": 2, "num_heads": 2},
        "rnn": {"hidden_dim": 5},
        "unet": {"width": 2, "num_stages": 3},
        "convnet": {"layers": LAYERS},
    }.get(name, {})
    return declared(name, **{**quick, **numbers})


ACTIVATIONS = ("step", "sigmoid", "tanh", "relu", "softmax", "leaky_relu", "prelu", "elu", "gelu", "swish")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_declared_activation_stands_after_every_layer(name, activation):
    network = models.build(small(name, activation=activation), make_spec())
    kind = type(activations.build(network.config.activation))
    assert sum(type(module) is kind for module in network.modules()) == (2 if name == "mlp" else 4)
    assert network(torch.rand(3, 1, 8, 8)).isfinite().all()


@pytest.mark.parametrize("norm", ["none", "batch", "layer", {"name": "group", "num_groups": 2}, "instance"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_declared_norm_stands_in_every_layer(name, norm):
    numbers = {"hidden_widths": (12, 8)} if name == "mlp" else {"num_stages": 3}
    config = small(name, norm=norm, **numbers)
    if name == "mlp" and norm == "instance":
        with pytest.raises(ValueError, match=r"^mlp: hidden layer 1: an instance norm needs images"):
            models.build(config, make_spec())
        return
    network = models.build(config, make_spec())
    weights = [module for module in network.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    norms = [module for module in network.modules() if isinstance(module, initialisers.NORMS)]
    assert len(norms) == (0 if norm == "none" else len(weights))
    assert all((layer.bias is None) is (norm != "none") for layer in weights)
    assert network(torch.rand(3, 1, 8, 8)).isfinite().all()


def test_the_folder_holds_the_networks():
    assert {"mlp", "cnn", "resnet"} <= set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_config_read_without_torch_is_that_of_the_class(name):
    twin = catalogue.config_class("models", name).model_json_schema()
    assert twin == catalogue.method_class("models", name).Config.model_json_schema()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_build_gives_features_of_the_told_width(name, shape):
    torch.manual_seed(0)
    network = models.build(small(name), make_spec(*shape))
    assert isinstance(network, catalogue.method_class("models", name))
    assert isinstance(network.config, type(network).Config)
    features = network(torch.rand(2, *shape).requires_grad_())  # some network has no weights
    assert features.shape == (2, network.feature_dim)
    features.square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_images_are_normalised_by_the_spec(name):
    torch.manual_seed(0)
    plain = models.build(small(name), make_spec(3, 8, 12)).eval()
    normalising = models.build(small(name), make_spec(3, 8, 12, mean=0.25, std=0.5)).eval()
    weights = {key: value for key, value in plain.state_dict().items() if not key.startswith("normalize.")}
    assert set(normalising.load_state_dict(weights, strict=False).missing_keys) == {"normalize.mean", "normalize.std"}
    images = torch.rand(2, 3, 8, 12)
    torch.testing.assert_close(normalising(images), plain((images - 0.25) / 0.5))


@pytest.mark.parametrize("name", NETWORKS)
def test_images_do_not_mix_in_eval_mode(name):
    torch.manual_seed(0)
    network = models.build(small(name), make_spec(3, 8, 8)).eval()
    images = torch.rand(4, 3, 8, 8)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(network(images[order]), network(images)[order])
    torch.testing.assert_close(network(images[1:2]), network(images)[1:2])


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_lie_in_memory_in_order(name):
    # safetensors refuses others
    network = models.build(small(name), make_spec(3, 16, 16))
    assert all(value.is_contiguous() for value in network.state_dict().values())


def test_build_refuses_an_unknown_network():
    with pytest.raises(DeclarationError, match=r"unknown name 'cn'; did you mean 'cnn'\?"):
        models.build(NetworkConfig(network="cn"), make_spec())


def test_build_validates_by_the_class():
    with pytest.raises(ValidationError, match="num_stages"):
        models.build(declared("cnn").model_copy(update={"num_stages": -1}), make_spec())


def test_mlp_is_the_paper_form_in_numpy():
    torch.manual_seed(0)
    network = MLP(MLP.Config(hidden_widths=(6, 5), norm="none"), make_spec(2, 3, 4, mean=0.4, std=0.3)).eval()
    images = torch.rand(7, 2, 3, 4)
    linears = [layer for layer in network.layers if isinstance(layer, torch.nn.Linear)]
    x = (images.double().numpy() - 0.4) / 0.3
    x = x.reshape(7, 24)
    for layer in linears:
        x = np.maximum(x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy(), 0)
    np.testing.assert_allclose(network(images).detach().numpy(), x, rtol=1e-4, atol=1e-6)
    assert len(linears) == 2


def test_mlp_norm_and_dropout_act():
    spec = make_spec(1, 8, 8)
    images = torch.rand(256, 1, 8, 8)
    torch.manual_seed(0)
    features = MLP(MLP.Config(hidden_widths=(400,), dropout_prob=0.5), spec)(images)
    # batch norm makes half the entries negative, ReLU drops those, dropout drops half of the others
    assert (features == 0).double().mean().item() == pytest.approx(0.75, abs=0.02)
    network = MLP(MLP.Config(hidden_widths=(400,), dropout_prob=0.5), spec).eval()
    torch.testing.assert_close(network(images), network(images), rtol=0, atol=0)
    normed = MLP(MLP.Config(hidden_widths=(400,), norm="batch"), spec).layers[:2](images.flatten(1))
    torch.testing.assert_close(normed.mean(0), torch.zeros(400), rtol=0, atol=1e-4)


@pytest.mark.parametrize("widths", [(), (8, 0)])
def test_mlp_refuses_widths_that_make_no_layer(widths):
    with pytest.raises(ValidationError, match="hidden_widths"):
        MLP.Config(hidden_widths=widths)


def test_cnn_is_its_layers_by_hand():
    torch.manual_seed(0)
    network = CNN(CNN.Config(width=3, num_stages=3), make_spec(2, 9, 12))
    images = torch.rand(4, 2, 9, 12)
    convolutions = [layer for layer in network.stages if isinstance(layer, torch.nn.Conv2d)]
    x = images
    for stage, convolution in enumerate(convolutions):
        # a 3x3 convolution as a matrix product over the patches
        patches = torch.nn.functional.unfold(x, 3, padding=1, stride=1 if stage == 0 else 2)  # (b, 9 c, positions)
        x = convolution.weight.flatten(1) @ patches  # (b, d, positions)
        mean, var = x.mean((0, 2), keepdim=True), x.var((0, 2), keepdim=True, unbiased=False)
        x = ((x - mean) / (var + 1e-5).sqrt()).relu()
        sides = [(9, 12), (5, 6), (3, 3)][stage]
        x = x.unflatten(2, sides)
    torch.testing.assert_close(network(images), x.mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert [layer.out_channels for layer in convolutions] == [3, 6, 12]
    assert network.feature_dim == 12


def test_cnn_refuses_more_stages_than_the_image_has_halvings():
    CNN(CNN.Config(num_stages=4, width=2), make_spec(1, 8, 8))
    CNN(CNN.Config(num_stages=4, width=2), make_spec(1, 5, 5))  # 5, 3, 2, 1: an odd side is halved upwards
    sentence = r"^cnn: stage 5: its input must be at least 2x2 to be halved; got 1x1; lower num_stages to 4 or"
    with pytest.raises(ValueError, match=sentence):
        CNN(CNN.Config(num_stages=5, width=2), make_spec(1, 8, 8))
    with pytest.raises(ValueError, match=r"^cnn: stage 3: .* got 1x8;"):
        CNN(CNN.Config(num_stages=3, width=2), make_spec(1, 2, 16))


def test_cnn_learns_to_tell_bars_apart():
    torch.manual_seed(0)
    images = torch.zeros(64, 1, 8, 8)
    for index in range(64):
        images[index, 0, index // 2 % 8, :] = 1.0
    images[1::2] = images[1::2].transpose(2, 3)  # odd ones are upright
    labels = torch.arange(64) % 2
    network = models.build(declared("cnn", width=4, num_stages=2), make_spec(1, 8, 8, mean=0.125, std=0.33))
    head = torch.nn.Linear(network.feature_dim, 2)
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], 0.02)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(head(network(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (head(network.eval()(images)).argmax(1) == labels).all()


def test_resnet_is_torchvisions_weight_for_weight():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18()
    theirs.fc = torch.nn.Identity()
    ours = ResNet(ResNet.Config(depth=18, stem="imagenet"), make_spec(3, 40, 64, mean=0.5, std=0.25))
    ours.trunk.load_state_dict(theirs.state_dict())  # strict: every weight of theirs has its place in ours
    ours, theirs = ours.double(), theirs.double()  # batch norm over two images amplifies float32's rounding
    images = torch.rand(2, 3, 40, 64, dtype=torch.float64)
    for mode in (True, False):
        ours.train(mode)
        theirs.train(mode)
        torch.testing.assert_close(ours(images), theirs((images - 0.5) / 0.25), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("depth", "feature_dim"), [(18, 512), (34, 512), (50, 2048)])
def test_resnet_of_each_depth_has_torchvisions_weights(depth, feature_dim):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")()
        theirs.fc = torch.nn.Identity()
        ours = ResNet(ResNet.Config(depth=depth, stem="imagenet"), make_spec(3, 64, 64))
    shapes = [(name, value.shape) for name, value in ours.trunk.state_dict().items()]
    assert shapes == [(name, value.shape) for name, value in theirs.state_dict().items()]
    assert ours.feature_dim == feature_dim
    strides = [module.stride for module in ours.trunk.modules() if isinstance(module, torch.nn.Conv2d)]
    assert strides == [module.stride for module in theirs.modules() if isinstance(module, torch.nn.Conv2d)]


def test_resnet_small_stem_keeps_the_resolution():
    torch.manual_seed(0)
    ours = ResNet(ResNet.Config(stem="cifar"), make_spec(1, 32, 28)).eval()
    theirs = torchvision.models.resnet18().eval()
    shared = {key: value for key, value in ours.trunk.state_dict().items() if key != "conv1.weight"}
    theirs.load_state_dict(shared, strict=False)
    images = torch.rand(2, 1, 32, 28)
    x = torch.nn.functional.conv2d(images, ours.trunk.conv1.weight, padding=1)
    assert x.shape == (2, 64, 32, 28)
    x = theirs.relu(theirs.bn1(x))  # no pooling
    x = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
    assert x.shape == (2, 512, 4, 4)
    torch.testing.assert_close(ours(images), x.mean((2, 3)), rtol=1e-3, atol=1e-5)


def test_resnet_first_convolution_has_the_variance_of_he():
    for stem, area in (("cifar", 9), ("pooled", 9), ("imagenet", 49)):
        torch.manual_seed(0)
        network = ResNet(ResNet.Config(stem=stem), make_spec(3, 32, 32))
        wanted = (2 / (64 * area)) ** 0.5  # fan out
        assert network.trunk.conv1.weight.std().item() == pytest.approx(wanted, rel=0.06)


def test_resnet_pooled_stem_is_the_small_one_and_torchs_pooling():
    spec = make_spec(1, 28, 28)
    pooled, small = (ResNet(ResNet.Config(depth=8, stem=stem), spec).eval() for stem in ("pooled", "cifar"))
    small.load_state_dict(pooled.state_dict())  # the same weights under the same names
    images = torch.rand(2, 1, 28, 28)
    stem = small.trunk[:3](small.normalize(images))
    grid = small.trunk[3:](torch.nn.functional.max_pool2d(stem, 3, stride=2, padding=1))
    assert grid.shape[2:] == (4, 4)
    torch.testing.assert_close(pooled(images), grid.mean((2, 3)), rtol=1e-4, atol=1e-6)


def test_resnet_refuses_images_that_its_stem_shrinks_away():
    ResNet(ResNet.Config(stem="cifar"), make_spec(1, 8, 8))
    with pytest.raises(ValueError, match=r"^resnet: layer3: .* got 1x1; take 'stem: cifar' or prepare larger images$"):
        ResNet(ResNet.Config(stem="imagenet"), make_spec(1, 8, 8))
    with pytest.raises(ValueError, match=r"^resnet: layer4: .* got 1x1; prepare larger images$"):
        ResNet(ResNet.Config(stem="cifar"), make_spec(1, 4, 4))


def test_torchvision_is_imported_by_resnet_alone():
    # its import costs time that the other networks need not pay
    mlml = Path(models.__file__).parents[1]
    files = [*(mlml / "models").glob("*.py"), *(mlml / "layers").glob("*.py")]
    imported = {
        file.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if name.split(".")[0] == "torchvision"
    }
    assert imported == {"resnet.py"}


@pytest.mark.parametrize("depth", [18, 50])
def test_a_resnet_without_shortcuts_is_the_plain_network(depth):
    plain = models.build(small("resnet", depth=depth, residual=False), make_spec()).eval()
    whole = models.build(small("resnet", depth=depth), make_spec()).eval()
    assert not [name for name in plain.state_dict() if "downsample" in name]
    assert [name for name in whole.state_dict() if "downsample" in name]
    for block in plain.trunk.layer2:
        last = block.bn3 if depth == 50 else block.bn2
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
        x = torch.rand(2, block.conv1.in_channels, 8, 8)
        assert not block(x).any()  # a shortcut would let the input through
    assert plain(torch.rand(2, 1, 8, 8)).shape == (2, plain.feature_dim)
    assert plain(torch.rand(2, 1, 8, 8)).isfinite().all()


def test_an_instance_norm_of_one_pixel_is_refused():
    sentence = r"^cnn: stage 4: an instance norm needs more than one pixel; got 1x1; lower num_stages to 3 or"
    with pytest.raises(ValueError, match=sentence):
        models.build(small("cnn", norm="instance"), make_spec(1, 8, 8))
    network = models.build(small("cnn", norm="instance", num_stages=3), make_spec(1, 8, 8))
    assert network(torch.rand(2, 1, 8, 8)).isfinite().all()


def test_pixels_are_the_features():
    images = torch.rand(2, 3, 4, 5)
    network = models.build(small("pixels"), make_spec(3, 4, 5, mean=0.5, std=2.0))
    torch.testing.assert_close(network(images), ((images - 0.5) / 2).flatten(1))
    assert network.feature_dim == 60


@pytest.mark.parametrize(("depth", "papers_millions"), [(20, 0.27), (32, 0.46)])
def test_small_resnets_are_as_large_as_the_paper_s(depth, papers_millions):
    network = models.build(small("resnet", depth=depth), make_spec(3, 32, 32))
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    projections = [module for module in convolutions if module.kernel_size == (1, 1)]  # the paper's option A has none
    assert len(convolutions) - len(projections) + 1 == depth  # and a linear layer to the classes
    own = sum(p.numel() for p in network.parameters()) - sum(2 * m.out_channels + m.weight.numel() for m in projections)
    assert round((own + 64 * 10 + 10) / 1e6, 2) == papers_millions  # its table 6
    assert network.feature_dim == 64


def test_a_small_resnet_is_its_blocks_by_hand():
    torch.manual_seed(0)
    network = models.build(small("resnet", depth=14, width=3), make_spec(2, 9, 12)).eval()
    weights, f = network.trunk.state_dict(), torch.nn.functional
    for value in weights.values():
        if value.dtype == torch.float32 and value.ndim == 1:  # norms that would show if they were mixed up
            value.uniform_(0.5, 1.5)

    def convolved(x, name, norm, stride=1):
        weight = weights[f"{name}.weight"]
        x = f.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
        keys = ("running_mean", "running_var", "weight", "bias")
        return f.batch_norm(x, *(weights[f"{norm}.{key}"] for key in keys))

    images = torch.rand(2, 2, 9, 12)
    x = convolved(images, "conv1", "bn1").relu()
    for stage in (1, 2, 3):
        for block in (0, 1):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = convolved(x, f"{at}.conv1", f"{at}.bn1", stride).relu()
            shortcut = convolved(x, f"{at}.downsample.0", f"{at}.downsample.1", 2) if stride == 2 else x
            x = (convolved(inner, f"{at}.conv2", f"{at}.bn2") + shortcut).relu()
    assert x.shape == (2, 12, 3, 3)
    torch.testing.assert_close(network(images), x.mean((2, 3)), rtol=1e-4, atol=1e-4)
    assert {key.split(".")[0] for key in weights} == {"conv1", "bn1", "layer1", "layer2", "layer3"}


@pytest.mark.parametrize(("depth", "width", "feature_dim"), [(8, 5, 20), (18, 5, 40), (50, 5, 160), (14, 32, 128)])
def test_the_width_of_a_resnet_multiplies(depth, width, feature_dim):
    for residual in (True, False):
        network = models.build(small("resnet", depth=depth, width=width, residual=residual), make_spec())
        assert network.trunk.conv1.out_channels == width
        assert network(torch.rand(2, 1, 8, 8)).shape == (2, feature_dim) == (2, network.feature_dim)


def test_a_small_resnet_takes_what_its_three_stages_halve():
    models.build(small("resnet", depth=8), make_spec(1, 3, 3))  # 3, 2, 1
    with pytest.raises(ValueError, match=r"^resnet: layer3: .* got 1x1; prepare larger images$"):
        models.build(small("resnet", depth=8), make_spec(1, 2, 2))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (7, 5), (12, 12)])
def test_a_network_takes_the_size_that_it_names(name, size):
    network = models.build(small(name), make_spec(1, 16, 16)).eval()
    assert network.nearest_size((16, 16)) == (16, 16)
    nearest = network.nearest_size(size)
    assert network(torch.rand(2, 1, *nearest)).shape == (2, network.feature_dim)
    if name in ("cnn", "resnet", "vit") and min(size) >= 5:
        assert max(abs(found - asked) for found, asked in zip(nearest, size, strict=True)) <= 2
