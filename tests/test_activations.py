import math
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from mlml import activations
from mlml.activations import ACTIVATIONS, Swish
from mlml.config import ActivationConfig

DECLARED = TypeAdapter(ActivationConfig)
X = torch.linspace(-4, 4, 33, dtype=torch.float64).view(3, 11)

FORMULAS = {
    "none": lambda x: x,
    "step": lambda x: 1.0 if x >= 0 else 0.0,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": lambda x: 2 / (1 + math.exp(-2 * x)) - 1,
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "prelu": lambda x: x if x > 0 else 0.25 * x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "swish": lambda x: x / (1 + math.exp(-x)),
}


def declared(value):
    return activations.build(DECLARED.validate_python(value)).double()


def test_the_table_holds_what_can_be_declared():
    union = get_args(get_args(ActivationConfig)[0])
    names = [name for config in union for name in get_args(config.model_fields["name"].annotation)]
    assert list(ACTIVATIONS) == names
    assert set(names) == {*FORMULAS, "softmax"}


@pytest.mark.parametrize("name", FORMULAS)
def test_they_are_their_formulas(name):
    wanted = torch.tensor([FORMULAS[name](x) for x in X.flatten().tolist()], dtype=torch.float64).view_as(X)
    torch.testing.assert_close(declared(name)(X).detach(), wanted, rtol=1e-7, atol=1e-9)


def test_their_numbers_are_the_declared_ones():
    assert declared({"name": "leaky_relu", "negative_slope": 0.3})(-X.abs()).sum() == pytest.approx(
        -0.3 * X.abs().sum()
    )
    assert declared({"name": "prelu", "initial_slope": 0.5})(torch.tensor(-2.0).double()).item() == -1
    assert declared({"name": "elu", "alpha": 2.0})(torch.tensor(-50.0).double()).item() == pytest.approx(-2)
    cube = math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)
    torch.testing.assert_close(declared({"name": "gelu", "approximate": "tanh"})(X), X * (1 + cube.tanh()) / 2)
    torch.testing.assert_close(declared({"name": "swish", "beta": 3.0})(X), X * torch.sigmoid(3 * X))


def test_softmax_is_over_the_features():
    for shape in ((3, 11), (2, 5, 4, 4)):
        assert declared("softmax")(torch.randn(shape).double()).sum(1).allclose(torch.ones(1).double())


def test_swish_learns_its_beta_when_asked():
    learnt, fixed = Swish(0.5, trainable=True), Swish(0.5)
    x = torch.tensor([2.0])
    learnt(x).sum().backward()
    s = 1 / (1 + math.exp(-1))
    assert learnt.beta.grad.item() == pytest.approx(4 * s * (1 - s))  # x^2 sigmoid'(beta x)
    assert (list(fixed.parameters()), fixed.state_dict()) == ([], {})
    torch.testing.assert_close(Swish(1.0)(X), torch.nn.functional.silu(X), check_dtype=False)


def test_step_lets_no_gradient_through():
    layer = torch.nn.Linear(3, 2)
    head = torch.nn.Linear(2, 1)
    head(activations.build(DECLARED.validate_python("step"))(layer(torch.ones(4, 3)))).sum().backward()
    assert layer.weight.grad is None
    assert head.weight.grad is not None


@pytest.mark.parametrize("value", ["rleu", {"name": "relu", "alpha": 1}, {"name": "elu", "alpha": 0}, 3])
def test_what_is_no_activation_is_refused(value):
    with pytest.raises(ValidationError):
        DECLARED.validate_python(value)
