import pytest
import torch
from torch import nn

from mlml.layers.prototypes import Prototypes, dino_head


def test_the_outputs_are_cosines():
    torch.manual_seed(0)
    layer, x = Prototypes(5, 7), torch.randn(3, 5)
    with torch.no_grad():
        layer.weight.mul_(torch.linspace(0.1, 9, 7)[:, None])  # lengths do not count
    for i, row in enumerate(layer(x)):
        for j, value in enumerate(row):
            w = layer.weight[j].detach()
            assert float(value) == pytest.approx(float(x[i] @ w / (x[i].norm() * w.norm())), abs=1e-5)


def test_it_is_torchs_weight_norm_with_magnitudes_of_1():
    torch.manual_seed(0)
    layer, x = Prototypes(5, 7), torch.randn(3, 5)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 7, bias=False))
    with torch.no_grad():
        normed.parametrizations.weight.original0.fill_(1)
        normed.parametrizations.weight.original1.copy_(layer.weight)
    theirs = normed(nn.functional.normalize(x, dim=1))
    torch.testing.assert_close(layer(x), theirs)
    layer(x).square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, normed.parametrizations.weight.original1.grad)


def test_held_directions_get_no_gradient_but_pass_it_on():
    torch.manual_seed(0)
    layer, x = Prototypes(5, 7), torch.randn(3, 5, requires_grad=True)
    free = layer(x)
    (passed,) = torch.autograd.grad(free.square().sum(), x)
    layer.learning.fill_(0)
    held = layer(x)
    held.square().sum().backward()
    assert torch.equal(held, free)
    assert torch.equal(x.grad, passed)
    assert not layer.weight.grad.any()


def test_the_head_is_three_layers_before_the_prototypes():
    head = dino_head(6, 8, 4, 9)
    names = [type(layer).__name__ for layer in head]
    assert names == ["Linear", "GELU", "Linear", "GELU", "Linear", "Prototypes"]
    assert head(torch.randn(3, 6)).shape == (3, 9)
    assert [tuple(layer.weight.shape) for layer in head if hasattr(layer, "weight")] == [(8, 6), (8, 8), (4, 8), (9, 4)]
    assert all(not layer.bias.any() for layer in head if isinstance(layer, nn.Linear))
