import pytest
import torch
from torch import nn

from mlml.regularisation import add_gradients


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
def test_the_gradient_is_that_of_the_penalty(l1, l2, vectors):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    layer(x).square().sum().backward()
    add_gradients(layer.parameters(), l1, l2, vectors)
    mine = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    penalised = [p for p in layer.parameters() if vectors or p.ndim > 1]
    penalty = sum(l1 * p.abs().sum() + l2 / 2 * p.square().sum() for p in penalised)
    (layer(x).square().sum() + penalty).backward()
    for gradient, parameter in zip(mine, layer.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_a_weight_of_0_is_not_moved_by_l1_and_one_without_gradient_stays_without():
    weight, unused = nn.Parameter(torch.tensor([[0.0, 2.0]])), nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.zeros(1, 2)
    add_gradients([weight, unused], 0.5, 0.0, False)
    assert weight.grad.tolist() == [[0.0, 0.5]]
    assert unused.grad is None
