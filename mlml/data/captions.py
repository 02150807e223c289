"""Captions as numbers: a small vocabulary of words, made from the train split, and sequences of one length.

Notation: n captions, l tokens each. Token 0 is padding, 1 a word that the vocabulary lacks, 2 + k its word k.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2

MAX_WORDS = 8192
"""Rarer words than so many are unknown."""

MAX_LENGTH = 128
"""Longer captions are cut, as in Nichol et al. 2022, arXiv:2112.10741, section 4."""

_WORD = re.compile(r"\w+")


def words(caption: str) -> list[str]:
    """Its words in lower case, without punctuation."""
    return _WORD.findall(caption.lower())


def vocabulary(captions: Sequence[str]) -> tuple[str, ...]:
    """The words of these captions, the most frequent first, equally frequent ones by the alphabet."""
    counts = Counter(word for caption in captions for word in words(caption))
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:MAX_WORDS])


def longest(captions: Sequence[str]) -> int:
    """Words of the longest caption, at least 1 and at most MAX_LENGTH."""
    return min(max((len(words(caption)) for caption in captions), default=1) or 1, MAX_LENGTH)


def tokenise(captions: Sequence[str], known: Sequence[str], length: int) -> NDArray[np.int64]:
    """Tokens of captions, (n, l), padded or cut to `length`."""
    places = {word: FIRST_WORD + place for place, word in enumerate(known)}
    tokens = np.full((len(captions), length), PADDING, np.int64)
    for row, caption in zip(tokens, captions, strict=True):
        found = [places.get(word, UNKNOWN) for word in words(caption)][:length]
        row[: len(found)] = found
    return tokens
