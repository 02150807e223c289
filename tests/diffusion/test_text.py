import pytest
import torch

from mlml.config import TextEncoderConfig
from mlml.diffusion.text import TextEncoder


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return TextEncoder(TextEncoderConfig(dim=8, depth=1, num_heads=2), ("a", "red", "ring"), 4).eval()


def test_the_whole_is_the_last_token(encoder):
    tokens = encoder.tokenise(["A red ring.", "ring"])
    assert tokens.tolist() == [[2, 3, 4, 0], [4, 0, 0, 0]]
    whole, each = encoder(tokens)
    assert each.shape == (2, 4, 8)
    assert torch.equal(whole, each[:, -1])
    assert not torch.allclose(whole[0], whole[1])


def test_the_order_of_words_matters(encoder):
    assert not torch.allclose(encoder(encoder.tokenise(["a red"]))[0], encoder(encoder.tokenise(["red a"]))[0])


def test_texts_that_it_cannot_read_are_refused(encoder):
    with pytest.raises(ValueError, match="text 'a blue ring': has words that no train caption has: blue"):
        encoder.tokenise(["a ring", "a blue ring"])
    with pytest.raises(ValueError, match="at most 4 words; got 5"):
        encoder.tokenise(["a a a a a"])
