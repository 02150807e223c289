"""The most memory held at once."""

import mmap
import sys

import pytest
import torch

from mlml import peak_memory

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not forget a peak")
def test_the_peak_is_of_what_was_held_since_the_reset():
    peak_memory.reset(CPU)
    before = peak_memory.peak_bytes(CPU)
    with mmap.mmap(-1, 256 * MIB) as held:  # no allocator between, which might keep what others freed
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
    assert 200 * MIB < peak_memory.peak_bytes(CPU) - before < 400 * MIB
    peak_memory.reset(CPU)
    assert peak_memory.peak_bytes(CPU) - before < 100 * MIB


def test_where_the_system_cannot_tell_it_is_that_of_the_process(monkeypatch, tmp_path):
    known = peak_memory.peak_bytes(CPU)
    monkeypatch.setattr(peak_memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(peak_memory, "_RESET", tmp_path / "no folder" / "none")
    peak_memory.reset(CPU)
    assert peak_memory.peak_bytes(CPU) >= known // 2
