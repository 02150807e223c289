"""Randomness derived from where it is used, so that a resumed run draws the same numbers without any saved state."""

import hashlib

import torch


def derive(*parts: int | str) -> int:
    """Return a 63-bit seed that is a function of `parts`, the same on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(*parts: int | str) -> None:
    """Seed torch's global generators, that of the processor and those of GPUs in use, from `parts`.

    `torch.manual_seed` would also note, with a trace of the stack each time, what to do should a GPU come into use: a
    fifth of a small network's step.
    """
    seed = derive(*parts)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def generator(device: torch.device, *parts: int | str) -> torch.Generator:
    """Return a generator on `device`, seeded from `parts`."""
    return torch.Generator(device).manual_seed(derive(*parts))
