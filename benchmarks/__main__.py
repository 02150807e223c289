"""Run every benchmark: `python -m benchmarks`, which is `make benchmark`."""

import subprocess
import sys

if __name__ == "__main__":
    for name in ("augment", "pretext", "generative", "step", "diagnostics", "startup", "reproduce", "search"):
        print(f"\n# benchmarks.{name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
