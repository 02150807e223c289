"""Captions as sets of words, and how far two such sets agree.

Notation: n captions of l tokens each; a vocabulary of v words. A set of words is a row of (n, v), true where the word
is in it. Order and number of a word do not matter, and padding and words that the vocabulary lacks are in no set.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mlml.data.captions import FIRST_WORD


def word_sets(tokens: Int[Tensor, "n l"], num_words: int) -> Bool[Tensor, "n v"]:
    """Return the words of each caption.

    Args:
        tokens: of `mlml.data.captions.tokenise`.
        num_words: of the vocabulary, v.
    """
    found = torch.zeros(len(tokens), FIRST_WORD + num_words, dtype=torch.bool, device=tokens.device)
    return found.scatter_(1, tokens, True)[:, FIRST_WORD:]


def same(truth: Bool[Tensor, "n v"], predicted: Bool[Tensor, "n v"]) -> Bool[Tensor, " n"]:
    """Whether a prediction is exactly the caption's set: no word too few and none too many."""
    return (truth == predicted).all(1)


def share_found(truth: Bool[Tensor, "n v"], predicted: Bool[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """Share of each caption's words that are in the prediction, in [0, 1]; 1 of a caption without words."""
    return _over((truth & predicted).sum(1), truth.sum(1))


def f1(truth: Bool[Tensor, "n v"], predicted: Bool[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """Twice the words in both sets over those of each, in [0, 1]; 1 where both are empty.

    Of one image, so that the mean over batches is that over images (the "samples" average of multi-label tasks).
    """
    return _over(2 * (truth & predicted).sum(1), truth.sum(1) + predicted.sum(1))


def _over(part: Tensor, whole: Tensor) -> Tensor:
    """Shares; 1 of nothing."""
    return torch.where(whole > 0, part / whole.clamp(min=1), 1.0)
