import pytest
import torch

from mlml.layers.heads import projection_head


def test_a_head_is_layers_with_norms_between_them():
    names = [type(layer).__name__ for layer in projection_head((8, 16, 16, 4), last_norm=True)]
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    assert names == [*hidden, *hidden, "Linear", "BatchNorm1d"]
    head = projection_head((8, 16, 4), norm=False)
    assert head(torch.zeros(3, 8)).shape == (3, 4)
    assert all(layer.bias is not None for layer in head if isinstance(layer, torch.nn.Linear))
    assert not any(isinstance(layer, torch.nn.BatchNorm1d) for layer in head)


def test_the_last_bias_can_be_left_out():
    head = projection_head((8, 16, 4), norm=False, last_bias=False)
    assert [layer.bias is None for layer in head if isinstance(layer, torch.nn.Linear)] == [False, True]


def test_a_last_norm_leaves_outputs_of_mean_0_and_deviation_1():
    out = projection_head((8, 4), last_norm=True)(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(out.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(out.var(0, unbiased=False), torch.ones(4), atol=1e-3)


def test_too_few_widths_are_refused():
    with pytest.raises(ValueError, match=r"head: widths must be .*; got \[8\]"):
        projection_head((8,))
