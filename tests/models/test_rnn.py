import pytest
import torch
from specs import make_spec
from torch import nn

from mlml import models
from mlml.models.rnn import RNN

SPEC = make_spec(2, 5, 3)
ONE_STEP = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


def build(cell, **numbers):
    torch.manual_seed(0)
    return models.build(RNN.Config.model_validate({"cell": cell, "hidden_dim": 4, **numbers}), SPEC).eval()


def one_step(network, suffix, inputs):
    """The cell of one layer and direction, for one row at a time."""
    cell = ONE_STEP[network.config.cell](inputs, 4)
    cell.load_state_dict(
        {name: network.layers.get_parameter(f"{name}_{suffix}") for name, _ in cell.named_parameters()}
    )
    return cell


def last_state(cell, rows):
    state = None
    for row in rows:
        state = cell(row, state)
    return state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize("cell", ONE_STEP)
def test_features_are_the_state_after_the_last_row(cell):
    network = build(cell)
    images = torch.rand(2, 2, 5, 3)
    rows = [torch.cat([images[:, 0, y], images[:, 1, y]], 1) for y in range(5)]
    torch.testing.assert_close(network(images), last_state(one_step(network, "l0", 6), rows))


@pytest.mark.parametrize("cell", ONE_STEP)
def test_bidirectional_features_are_the_states_at_both_ends(cell):
    network = build(cell, bidirectional=True)
    images = torch.rand(2, 2, 5, 3)
    rows = [torch.cat([images[:, 0, y], images[:, 1, y]], 1) for y in range(5)]
    down = last_state(one_step(network, "l0", 6), rows)
    up = last_state(one_step(network, "l0_reverse", 6), rows[::-1])
    assert network.feature_dim == 8
    torch.testing.assert_close(network(images), torch.cat([down, up], 1))


def test_layers_are_as_many_as_declared_and_drop_between_them():
    network = build("gru", num_layers=3, dropout_prob=0.5)
    assert (network.layers.num_layers, network.layers.dropout) == (3, 0.5)
    assert build("gru", dropout_prob=0.5).layers.dropout == 0.0
    images = torch.rand(2, 2, 5, 3)
    assert torch.equal(network(images), network(images))
    assert not torch.equal(network.train()(images), network(images))
