from types import SimpleNamespace

import pytest
import torch

from stages._training import start_device


@pytest.mark.parametrize("threads", [1, 3])
def test_a_stage_computes_with_the_declared_threads(threads):
    before = torch.get_num_threads()
    try:
        start_device(SimpleNamespace(declaration=SimpleNamespace(threads=threads)))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
