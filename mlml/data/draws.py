"""Integers drawn from where they are used, the same on every machine and with every version of every library."""

import hashlib


class Draws:
    """A stream of integers that is a function of `parts` alone: the bytes of SHA-512 over (parts, block number).

    NumPy promises its bit streams, but not what its generators make of them; a data set must not change with NumPy.
    """

    def __init__(self, *parts: int | str) -> None:
        self._name = "\x1f".join(map(str, parts))
        self._block = 0
        self._words: list[int] = []

    def below(self, limit: int) -> int:
        """Draw from 0 .. limit - 1, uniform up to limit / 2^64."""
        if not self._words:
            digest = hashlib.sha512(f"{self._name}\x1e{self._block}".encode()).digest()
            self._words = [int.from_bytes(digest[start : start + 8], "big") for start in range(56, -1, -8)]
            self._block += 1
        return (self._words.pop() * limit) >> 64

    def between(self, low: int, high: int) -> int:
        """Draw from low .. high, both included."""
        return low + self.below(high - low + 1)
