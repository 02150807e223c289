"""The encoder of captions: a transformer over their tokens, trained along with the denoiser."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mlml.config import TextEncoderConfig
from mlml.data import captions
from mlml.layers.transformer import transformer


class Encoded(NamedTuple):
    """What a caption says: as a whole, and token by token."""

    whole: Float[Tensor, "n d"]
    tokens: Float[Tensor, "n l d"]


class TextEncoder(nn.Module):
    """Nichol et al. 2022 (GLIDE), arXiv:2112.10741, section 4: all of a transformer's last layer, and its last token.

    Padding is a token like others, with an embedding of its own; a dropped caption is padding alone.

    Args:
        config: its numbers.
        vocabulary: the words that it knows.
        length: tokens of a caption.
    """

    def __init__(self, config: TextEncoderConfig, vocabulary: Sequence[str], length: int) -> None:
        super().__init__()
        self.vocabulary, self.length = tuple(vocabulary), length
        self.embedding = nn.Embedding(captions.FIRST_WORD + len(self.vocabulary), config.dim)
        self.positions = nn.Parameter(0.01 * torch.randn(length, config.dim))
        self.blocks = transformer(config.dim, config.num_heads, 4 * config.dim, 0.0, config.depth)

    def forward(self, tokens: Int[Tensor, "n l"]) -> Encoded:
        """Encode captions."""
        encoded = self.blocks(self.embedding(tokens) + self.positions)  # (n, l, d)
        return Encoded(encoded[:, -1], encoded)

    def tokenise(self, texts: Sequence[str]) -> Int[Tensor, "n l"]:
        """Tokens of texts, on the device of the encoder.

        Raises:
            ValueError: a text has a word that the train captions have not, or more words than they have.
        """
        known = set(self.vocabulary)
        for text in texts:
            found = captions.words(text)
            unknown = [word for word in found if word not in known]
            if unknown:
                raise ValueError(f"text {text!r}: has words that no train caption has: {', '.join(unknown)}")
            if len(found) > self.length:
                raise ValueError(f"text {text!r}: must have at most {self.length} words; got {len(found)}")
        tokens = captions.tokenise(texts, self.vocabulary, self.length)
        return torch.from_numpy(tokens).to(self.positions.device)
