import platform
import subprocess
import sys

import pytest

HELD = """
import sys, torch
from mlml import heap

def resident():
    with open("/proc/self/statm") as file:
        return 4096 * int(file.read().split()[1])

if sys.argv[1] == "keep":
    assert heap.keep_freed()
torch.ones(1000)
before = resident()
array = torch.ones(32 * 2**20)  # 128 MiB
del array
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keeping freed memory is told to glibc's allocator")
@pytest.mark.parametrize("what", ["keep", "give back"])
def test_freed_memory_is_kept_for_the_next_array(what):
    done = subprocess.run([sys.executable, "-c", HELD, what], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held = int(done.stdout)
    assert held > 120 * 2**20 if what == "keep" else held < 8 * 2**20
