import pytest
import torch
import torch.nn.functional as F
from specs import make_spec

from mlml import models
from mlml.models.vit import ViT

DIM, HEADS = 12, 3


def build(**numbers):
    torch.manual_seed(0)
    config = {"patch_size": 4, "dim": DIM, "depth": 2, "num_heads": HEADS, "mlp_ratio": 2.0, **numbers}
    return models.build(ViT.Config.model_validate(config), make_spec(2, 8, 12)).double().eval()


def norm(x, layer):
    return F.layer_norm(x, (DIM,), layer.weight, layer.bias)


def block(x, layer):
    """One pre-norm block, head by head: Eq. 2 and 3, and appendix A (Eq. 5 to 8)."""
    y = norm(x, layer.norm1)
    attention = layer.self_attn
    q, k, v = (y @ attention.in_proj_weight.T + attention.in_proj_bias).split(DIM, -1)
    heads, wide = [], DIM // HEADS
    for h in range(HEADS):
        part = slice(h * wide, (h + 1) * wide)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / wide**0.5, -1)
        heads.append(weights @ v[..., part])
    x = x + torch.cat(heads, -1) @ attention.out_proj.weight.T + attention.out_proj.bias
    y = norm(x, layer.norm2)
    y = F.gelu(y @ layer.linear1.weight.T + layer.linear1.bias)
    return x + y @ layer.linear2.weight.T + layer.linear2.bias


def reference(network, images):
    tokens = []
    for top in range(0, images.shape[2], 4):
        for left in range(0, images.shape[3], 4):
            patch = images[:, :, top : top + 4, left : left + 4].flatten(1)
            tokens.append(patch @ network.patches.weight.flatten(1).T + network.patches.bias)
    x = torch.stack(tokens, 1)
    if network.class_token is not None:
        x = torch.cat([network.class_token.repeat(len(x), 1, 1), x], 1)
    x = x + network.positions
    for layer in network.blocks.layers:
        x = block(x, layer)
    x = norm(x, network.blocks.norm)
    return x.mean(1) if network.class_token is None else x[:, 0]


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_papers_equations_weight_for_weight(pooling, training):
    network = build(pooling=pooling).train(training)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # norms and biases too
    images = torch.rand(3, 2, 8, 12, dtype=torch.float64)
    torch.testing.assert_close(network(images), reference(network, images))


def test_layers_begin_with_weights_of_their_own():
    first, second = build().blocks.layers
    for name, parameter in first.named_parameters():
        if parameter.ndim > 1:
            assert not torch.equal(parameter, second.get_parameter(name)), name


def test_the_order_of_patches_matters():
    network = build()
    images = torch.rand(1, 2, 8, 12, dtype=torch.float64)
    swapped = torch.cat([images[..., 4:8], images[..., :4], images[..., 8:]], -1)
    assert (network(images) - network(swapped)).abs().max() > 1e-4


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_positions_are_interpolated_to_another_size_as_in_dinos_code(pooling):
    network = build(pooling=pooling)
    tokens = network.positions.shape[1] - 6
    assert torch.equal(network._patch_positions((2, 3)), network.positions[:, tokens:])  # bit for bit as ever
    learnt = network.positions[:, tokens:].reshape(1, 2, 3, DIM).permute(0, 3, 1, 2)
    for grid in ((1, 2), (3, 3), (4, 1)):
        theirs = F.interpolate(learnt, grid, mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)
        torch.testing.assert_close(network._patch_positions(grid), theirs, rtol=1e-6, atol=1e-8)
        assert network(torch.rand(2, 2, 4 * grid[0], 4 * grid[1], dtype=torch.float64)).shape == (2, DIM)


def test_the_nearest_size_is_of_whole_patches():
    sizes = {(8, 12): (8, 12), (5, 7): (4, 8), (7, 5): (8, 4), (1, 1): (4, 4), (20, 9): (20, 8)}
    assert {size: build().nearest_size(size) for size in sizes} == sizes


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^vit: patch_size must divide both sides of the 8x12 images; got 3$"):
        build(patch_size=3)
    with pytest.raises(ValueError, match=r"^vit: num_heads must divide dim, 12; got 5$"):
        build(num_heads=5)
