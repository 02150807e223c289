"""Randomness derived from where it is used, so that a resumed run draws the same numbers without any saved state."""

import hashlib

import torch

AT_ONCE = 64
"""Counts whose seeds are derived together."""


def derive(*parts: int | str) -> int:
    """Return a 63-bit seed that is a function of `parts`, the same on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Derived:
    """Seeds by a count: `derive` of the parts in front, the count and the parts behind.

    They are computed for many counts at once: one by one, between the steps of a training that empties the processor's
    caches, each would take eight times as long, together a hundredth of a small network's step.
    """

    def __init__(self, *front: int | str, behind: tuple[int | str, ...] = ()) -> None:
        self._front, self._behind = front, behind
        self._block, self._seeds = -1, [0]

    def __call__(self, n: int) -> int:
        """Return the seed of count n."""
        block, position = divmod(n, AT_ONCE)
        if block != self._block:
            counts = range(block * AT_ONCE, (block + 1) * AT_ONCE)
            self._block, self._seeds = block, [derive(*self._front, k, *self._behind) for k in counts]
        return self._seeds[position]


def seed_everything(*parts: int | str) -> None:
    """Seed torch's global generators, that of the processor and those of GPUs in use, from `parts`."""
    seed_torch(derive(*parts))


def seed_torch(seed: int) -> None:
    """Seed torch's global generators, that of the processor and those of GPUs in use.

    `torch.manual_seed` would also note, with a trace of the stack each time, what to do should a GPU come into use: a
    fifth of a small network's step.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def generator(device: torch.device, *parts: int | str) -> torch.Generator:
    """Return a generator on `device`, seeded from `parts`."""
    return torch.Generator(device).manual_seed(derive(*parts))
