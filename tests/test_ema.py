import copy

import pytest
import torch
from torch import nn

from mlml.ema import ema_update


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_average_is_the_closed_form(decay):
    model = network()
    average = copy.deepcopy(model).requires_grad_(False)
    history = {name: [value.detach().clone()] for name, value in model.named_parameters()}
    steps = 60
    for _ in range(steps):
        for name, value in model.named_parameters():
            value.data += torch.randn_like(value)
            history[name].append(value.detach().clone())
        ema_update(average, model, decay)
    for name, value in average.named_parameters():
        # decay^n w_0 + (1 - decay) sum_k decay^(n - k) w_k
        weights = [decay**steps] + [(1 - decay) * decay ** (steps - k) for k in range(1, steps + 1)]
        wanted = sum(weight * past for weight, past in zip(weights, history[name], strict=True))
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-9)
        assert torch.equal(dict(model.named_parameters())[name], history[name][-1])


def test_buffers_are_copied():
    model = network()
    average = copy.deepcopy(model)
    for _ in range(3):
        model(torch.randn(8, 3, dtype=torch.float64))
    ema_update(average, model, 0.999)
    for (name, ours), theirs in zip(average.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
        assert ours.data_ptr() != theirs.data_ptr(), name
    assert int(average[1].num_batches_tracked) == 3


def test_no_gradient_is_recorded():
    model = network()
    average = copy.deepcopy(model)
    ema_update(average, model, 0.5)
    assert all(value.grad_fn is None and value.is_leaf for value in average.parameters())


def test_shared_parameters_move_once():
    model = nn.ModuleList([nn.Linear(2, 2, bias=False)])
    model.append(model[0])
    average = copy.deepcopy(model)
    with torch.no_grad():
        average[0].weight.zero_()
        model[0].weight.fill_(1.0)
    ema_update(average, model, 0.75)
    torch.testing.assert_close(average[1].weight, torch.full((2, 2), 0.25))


def test_modules_without_buffers_or_parameters_are_left_as_they_are():
    average = nn.Sequential(nn.ReLU(), nn.Flatten())
    ema_update(average, copy.deepcopy(average), 0.5)
    assert average.state_dict() == {}


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\]"):
        ema_update(network(), network(), decay)


def test_another_network_is_refused():
    with pytest.raises(ValueError, match=r"must be a copy of the model; it differs in 2\.bias, 2\.weight"):
        ema_update(network()[:2], network(), 0.5)
