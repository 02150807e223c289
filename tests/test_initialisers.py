import math
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter
from specs import make_spec
from torch import nn

from mlml import models
from mlml.activations import Swish
from mlml.config import InitialiserConfig
from mlml.initialisers import INITIALISERS, initialise
from mlml.models.mlp import MLP
from mlml.models.vit import ViT
from mlml.supervised.classifier import Classifier

DECLARED = TypeAdapter(InitialiserConfig)
FAN_IN, FAN_OUT = 400, 300

# name -> standard deviation of a layer of so many inputs and outputs
WIDTHS = {
    "normal": lambda i, o: 0.01,
    "xavier_uniform": lambda i, o: math.sqrt(2 / (i + o)),
    "xavier_normal": lambda i, o: math.sqrt(2 / (i + o)),
    "he_uniform": lambda i, o: math.sqrt(2 / i),
    "he_normal": lambda i, o: math.sqrt(2 / i),
}
LAYERS = {
    "linear": (nn.Linear(FAN_IN, FAN_OUT), FAN_IN, FAN_OUT),
    "convolution": (nn.Conv2d(40, 60, (3, 5)), 40 * 15, 60 * 15),
    "transposed convolution": (nn.ConvTranspose2d(40, 60, 4), 40 * 16, 60 * 16),
}


def fill(network, value):
    torch.manual_seed(0)
    initialise(network, DECLARED.validate_python(value))
    return network


def test_the_table_holds_what_can_be_declared():
    union = get_args(get_args(InitialiserConfig)[0])
    assert set(INITIALISERS) == {name for c in union for name in get_args(c.model_fields["name"].annotation)}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", WIDTHS)
def test_weights_have_the_declared_spread(name, layer):
    module, fan_in, fan_out = LAYERS[layer]
    weight = fill(module, name).weight.detach().flatten()
    width = WIDTHS[name](fan_in, fan_out)
    # the standard error of a standard deviation over n draws is at most width / sqrt(2 n)
    assert weight.std().item() == pytest.approx(width, abs=5 * width / math.sqrt(2 * len(weight)))
    assert weight.mean().item() == pytest.approx(0, abs=5 * width / math.sqrt(len(weight)))
    if name.endswith("uniform"):
        assert weight.abs().max().item() <= math.sqrt(3) * width + 1e-6
        assert weight.abs().max().item() > 0.99 * math.sqrt(3) * width
    else:
        assert weight.abs().max().item() > 3 * width
    assert not module.bias.any()


def test_what_torch_keeps_as_one_weight_is_filled_map_by_map():
    lstm = fill(nn.LSTM(30, 20, bidirectional=True), "orthogonal")
    for name in ("weight_hh_l0", "weight_hh_l0_reverse", "weight_ih_l0"):
        for gate in lstm.get_parameter(name).detach().split(20):
            torch.testing.assert_close(gate @ gate.T, torch.eye(20), rtol=0, atol=1e-5)
    attention = fill(nn.MultiheadAttention(24, 3), "orthogonal")
    for matrix in attention.in_proj_weight.detach().chunk(3):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(24), rtol=0, atol=1e-5)
    assert not any(lstm.get_parameter(name).any() for name, _ in lstm.named_parameters() if "bias" in name)
    assert not attention.in_proj_bias.any()


def test_tokens_and_positions_of_a_transformer_keep_their_beginning():
    spec = make_spec(1, 4, 4, mean=0.5, std=0.2)
    config = {"patch_size": 2, "dim": 8, "depth": 1, "num_heads": 2, "pooling": "class_token", "initialiser": "zero"}
    network = models.build(ViT.Config.model_validate(config), spec)
    assert network.positions.any()
    assert network.class_token.any()
    assert not network.patches.weight.any()


def test_orthogonal_rows():
    weight = fill(nn.Linear(50, 20), {"name": "orthogonal", "gain": 2.0}).weight.detach()
    torch.testing.assert_close(weight @ weight.T, 4 * torch.eye(20), rtol=0, atol=1e-4)


def test_zero_and_constant():
    assert not fill(nn.Conv2d(2, 3, 3), "zero").weight.any()
    assert (fill(nn.Linear(3, 2), {"name": "constant", "value": 0.5}).weight == 0.5).all()


def test_norms_and_slopes_keep_their_beginning():
    network = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GroupNorm(2, 6), nn.LayerNorm(6), nn.PReLU(), Swish(2.0, True)
    )
    fill(network, "zero")
    for layer in network[1:4]:
        assert (layer.weight == 1).all()
    assert (network[4].weight.item(), network[5].beta.item()) == (0.25, 2.0)


def test_none_changes_nothing_and_draws_nothing():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    after = torch.get_rng_state()
    kept = layer.weight.clone()
    initialise(layer, None)
    assert torch.equal(layer.weight, kept)
    assert torch.equal(torch.get_rng_state(), after)


def test_a_declared_network_begins_so_with_the_classifiers_last_layer():
    spec = make_spec(1, 4, 4, mean=0.5, std=0.2, classes=("a", "b"))
    encoder = {"network": "mlp", "hidden_widths": [8, 8], "initialiser": {"name": "constant", "value": 0.25}}
    network = models.build(MLP.Config.model_validate(encoder), spec)
    assert all((p == 0.25).all() for p in network.parameters() if p.ndim > 1)
    config = Classifier.Config.model_validate({"encoder": encoder, "train": {"steps": 1}})
    classifier = Classifier(config, spec)
    assert (classifier.head.weight == 0.25).all()
    assert not classifier.head.bias.any()
