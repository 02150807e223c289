import json
import subprocess
import sys

import pytest
import torch

from mlml import distributed
from mlml.pretext.simclr import nt_xent

PROGRAM = """
import json, sys, torch
from pathlib import Path
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from mlml import distributed
from mlml.pretext.simclr import nt_xent
torch.set_num_threads(1)
distributed.start()
rank, world = distributed.rank(), distributed.world_size()
torch.manual_seed(0)
layer, data = nn.Linear(5, 4), torch.randn(2, 8, 5)
mine = data[:, rank * 4 : (rank + 1) * 4]
model = DistributedDataParallel(layer)
z0, z1 = model(mine.flatten(0, 1)).chunk(2)
loss = nt_xent(distributed.gather(z0), distributed.gather(z1), 0.5)
loss.backward()
report = {"loss": loss.item(), "gradient": layer.weight.grad.flatten().tolist(), "world": world}
last = torch.arange(24.0).view(2, 3, 2, 2).add(100 * rank).contiguous(memory_format=torch.channels_last)
report["images"] = distributed.gather(last).flatten().tolist()
report["from_zero"] = distributed.from_rank_zero({"rank": rank})
Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(report))
distributed.stop()
"""


def test_the_gradient_over_ranks_is_that_of_the_whole_batch(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, str(program), str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    torch.manual_seed(0)
    layer, data = torch.nn.Linear(5, 4), torch.randn(2, 8, 5)
    loss = nt_xent(layer(data[0]), layer(data[1]), 0.5)
    loss.backward()
    for rank in range(2):
        report = json.loads((tmp_path / f"{rank}.json").read_text())
        assert report["world"] == 2
        assert report["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert report["gradient"] == pytest.approx(layer.weight.grad.flatten().tolist(), rel=1e-4, abs=1e-6)
        assert report["from_zero"] == {"rank": 0}
        assert report["images"] == [*map(float, range(24)), *map(float, range(100, 124))]


def test_one_process_is_rank_zero_of_one():
    assert (distributed.rank(), distributed.world_size(), distributed.is_distributed()) == (0, 1, False)
    x = torch.ones(2, 3)
    assert distributed.gather(x) is x
    assert distributed.from_rank_zero("x") == "x"
