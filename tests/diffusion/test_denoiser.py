import math

import numpy as np
import pytest
import torch

from mlml.config import DenoiserConfig
from mlml.diffusion.denoiser import Denoiser, time_embedding

SMALL = {
    "width": 8,
    "multipliers": (1, 2),
    "num_blocks": 1,
    "attention_resolutions": (4,),
    "num_groups": 4,
    "num_heads": 2,
    "dropout_prob": 0.0,
}


def small(size=(8, 8), channels=1, condition_dim=0, token_dim=0, **numbers):
    """A denoiser whose weights are all drawn, those that begin with 0 too."""
    torch.manual_seed(0)
    config = DenoiserConfig.model_validate({**SMALL, **numbers})
    denoiser = Denoiser(config, channels, channels, size, condition_dim, token_dim).eval()
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return denoiser


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_network_of_cifar10_is_as_large_as_the_papers():
    """Ho et al. 2020, appendix B: 35.7 million parameters."""
    with torch.device("meta"):
        denoiser = Denoiser(DenoiserConfig(), 3, 3, (32, 32))
    assert round(sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6, 1) == 35.7


def test_time_is_sines_and_cosines():
    embedding = time_embedding(torch.tensor([0.0, 3.0, 999.0]), 6)
    for row, t in zip(embedding, (0, 3, 999), strict=True):
        for k in range(3):
            assert row[k].item() == pytest.approx(math.sin(t * 10000 ** (-k / 3)), abs=1e-4)
            assert row[3 + k].item() == pytest.approx(math.cos(t * 10000 ** (-k / 3)), abs=1e-4)
    with pytest.raises(ValueError, match="must be even; got 5"):
        time_embedding(torch.zeros(1), 5)


def test_untrained_it_predicts_nothing():
    denoiser = Denoiser(DenoiserConfig.model_validate(SMALL), 1, 1, (8, 8))
    assert not denoiser(drawn(2, 1, 8, 8), torch.tensor([1.0, 2.0])).any()


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (4, 12)])
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_a_prediction_has_the_shape_of_its_image(size, num_blocks):
    denoiser = small(size, 3, num_blocks=num_blocks, attention_resolutions=(size[0],))
    assert denoiser(drawn(2, 3, *size), torch.tensor([1.0, 2.0])).shape == (2, 3, *size)


def test_time_condition_and_tokens_all_matter():
    denoiser = small(condition_dim=5, token_dim=6)
    x, t, condition, tokens = drawn(2, 1, 8, 8), torch.tensor([3.0, 70.0]), drawn(2, 5, seed=1), drawn(2, 4, 6, seed=2)
    prediction = denoiser(x, t, condition, tokens)
    for other in (
        denoiser(x, t.flip(0), condition, tokens),
        denoiser(x, t, condition.flip(0), tokens),
        denoiser(x, t, condition, tokens.flip(0)),
    ):
        assert (prediction - other).abs().amax((1, 2, 3)).min() > 1e-4
    torch.testing.assert_close(denoiser(x, t, condition, tokens.flip(1)), prediction)  # keys have no order


def test_an_image_is_predicted_alone():
    denoiser = small()
    x, t = drawn(3, 1, 8, 8), torch.tensor([3.0, 70.0, 5.0])
    together = denoiser(x, t)
    for k in range(3):
        torch.testing.assert_close(denoiser(x[k : k + 1], t[k : k + 1]), together[k : k + 1], atol=1e-5, rtol=1e-4)


def test_patches_are_channels_of_a_smaller_image():
    """Pixel (i, j) of the patch at a place is channel p i + j there, before the network and behind it."""
    patched, plain = small((8, 6), 1, patch_size=2), small((4, 3), 4, attention_resolutions=(4,))
    plain.load_state_dict(patched.state_dict())
    x, t = drawn(2, 1, 8, 6), torch.tensor([3.0, 70.0])
    cut = torch.stack([x[:, 0, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)  # (2, 4, 4, 3)
    predicted, expected = patched(x, t), plain(cut, t)
    assert predicted.shape == x.shape
    assert patched.sizes == [(4, 3), (2, 2)]
    for channel in range(4):
        i, j = divmod(channel, 2)
        assert torch.equal(predicted[:, 0, i::2, j::2], expected[:, channel])


def test_attention_in_bfloat16_is_that_of_float32_but_for_rounding():
    """Which is computed another way, by both a call and its gradients."""
    attention = small(token_dim=6).middle[0].attention
    torch.nn.init.normal_(attention.to_qkv.weight, std=0.5)  # so that some places weigh much
    results = []
    for shortened in (False, True):
        grid, tokens = drawn(2, 16, 4, 4).requires_grad_(), drawn(2, 4, 6, seed=1)
        with torch.autocast("cpu", torch.bfloat16, enabled=shortened):
            added = attention(grid, tokens).float() - grid
        (added * drawn(2, 16, 4, 4, seed=2)).sum().backward()
        results.append((added.detach(), grid.grad))
    for exact, rounded in zip(*results, strict=True):
        error = (rounded - exact).square().mean() / exact.square().mean()
        assert 0 < error < 1e-3


@pytest.mark.parametrize("token_dim", [0, 6])
def test_attention_is_the_slow_sum(token_dim):
    attention = small(token_dim=token_dim).middle[0].attention
    grid, tokens = drawn(1, 16, 2, 3), drawn(1, 4, 6, seed=1) if token_dim else None
    out = attention(grid, tokens)
    pixels = attention.norm(grid).flatten(2)[0].T  # (6, 16)
    q, k, v = (part.detach().numpy() for part in attention.to_qkv(pixels).chunk(3, dim=1))
    if tokens is not None:
        more = [part.detach().numpy() for part in attention.token_to_kv(tokens[0]).chunk(2, dim=1)]
        k, v = np.concatenate([k, more[0]]), np.concatenate([v, more[1]])
    attended = np.zeros((6, 16))
    for head in range(2):
        of = slice(8 * head, 8 * head + 8)
        for i in range(6):
            weights = np.array([math.exp(q[i, of] @ k[j, of] / math.sqrt(8)) for j in range(len(k))])
            attended[i, of] = sum(w * v[j, of] for j, w in enumerate(weights / weights.sum()))
    expected = grid + attention.out(torch.from_numpy(attended).float()).T.reshape(1, 16, 2, 3)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


def test_attention_stands_where_it_is_declared():
    denoiser = small(attention_resolutions=(4,))
    places = [[block.attention is not None for block in blocks] for blocks in denoiser.down]
    assert places == [[False], [True]]
    assert [[block.attention is not None for block in blocks] for blocks in denoiser.up] == [[True] * 2, [False] * 2]
    assert [block.attention is not None for block in denoiser.middle] == [True, False]


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ({"attention_resolutions": (16,)}, "attention_resolutions must be heights of its grids, 8, 4; got 16"),
        ({"multipliers": (1, 1, 1, 1, 1), "attention_resolutions": ()}, "8x8 cannot be halved 4 times; give at most 4"),
        ({"num_groups": 3}, "num_groups must divide every width, of which one is 8; got 3"),
        ({"patch_size": 3}, "patch_size must divide an image of 8x8; got 3; prepare images of another size"),
        (
            {"patch_size": 4, "attention_resolutions": (), "multipliers": (1, 1, 1)},
            "a grid of 2x2 cannot be halved 2 times; give at most 2 multipliers",
        ),
        ({"num_heads": 5}, "num_heads must divide every width, of which one is 8; got 5"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(numbers, sentence):
    with pytest.raises(ValueError, match=sentence):
        small(**numbers)
