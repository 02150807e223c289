from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter

from mlml.config import NormConfig
from mlml.layers import norm

DECLARED = TypeAdapter(NormConfig)
NAMES = [
    name for config in get_args(get_args(NormConfig)[0]) for name in get_args(config.model_fields["name"].annotation)
]
AXES = {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}


def build(value, features, images):
    return norm.build(DECLARED.validate_python(value), features, images, "cnn: stage 2").double()


def normalised(x, axes):
    return (x - x.mean(axes, keepdim=True)) / (x.var(axes, unbiased=False, keepdim=True) + 1e-5).sqrt()


def test_all_are_known():
    assert NAMES == ["none", "batch", "layer", "instance", "group"]


@pytest.mark.parametrize("name", AXES)
def test_images_are_normalised_over_their_axes(name):
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64) * 3 + 1
    torch.testing.assert_close(build(name, 6, True)(x), normalised(x, AXES[name]))


@pytest.mark.parametrize(("name", "axes"), [("batch", (0,)), ("layer", (1,))])
def test_vectors_are_normalised_over_their_axes(name, axes):
    x = torch.randn(7, 6, dtype=torch.float64) * 3 + 1
    torch.testing.assert_close(build(name, 6, False)(x), normalised(x, axes))


@pytest.mark.parametrize("shape", [(3, 6, 5, 4), (3, 6)])
def test_groups(shape):
    x = torch.randn(shape, dtype=torch.float64) * 3 + 1
    grouped = x.view(3, 2, 3, *shape[2:])
    wanted = normalised(grouped, tuple(range(2, grouped.ndim))).view(shape)
    torch.testing.assert_close(build({"name": "group", "num_groups": 2}, 6, len(shape) == 4)(x), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_every_norm_but_none_has_scales_and_biases_of_its_own(name):
    config = DECLARED.validate_python({"name": "group", "num_groups": 2} if name == "group" else name)
    layer = norm.build(config, 6, True, "x")
    assert norm.has_bias(config) is (name != "none")
    assert {tuple(p.shape) for p in layer.parameters()} == (set() if name == "none" else {(6,)})


def test_what_does_not_fit_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"^cnn: stage 2: norm.num_groups must divide the 6 features; got 4$"):
        build({"name": "group", "num_groups": 4}, 6, True)
    with pytest.raises(ValueError, match=r"^cnn: stage 2: an instance norm needs images"):
        build("instance", 6, False)
