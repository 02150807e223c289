"""What a stage costs beyond its training, imports included, with the server up: `python -m benchmarks.startup`.

The stage is `pretext@random`, which trains nothing: it checks the declaration, asks DVC for its lineage, is a Prefect
flow, builds an encoder, writes it, and has its run sent to MLflow. The imports that it needs are timed beside it, in
the same run and in turns, for they are most of it and differ between machines.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from mlml import declaration
from stages import _servers

STAGE = "random"
IMPORTS = ("torch", "prefect", "mlflow", "dvc.repo")


def seconds(*words: str) -> float:
    """Run Python once and return how long it took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Prepare what the stage needs, start the server, and take turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    root = Path.cwd()
    _servers.apply_settings(root)
    dataset = declaration.read().experiments[STAGE].dataset
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet", f"prepare@{dataset}"], check=True)
    os.environ["PREFECT_API_URL"] = _servers.ensure_prefect(root) or ""
    contestants = {"the stage": ("-m", "stages.pretext", STAGE)}
    contestants |= {f"import {module}": ("-c", f"import {module}") for module in IMPORTS}
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats + 1):
        for name, words in contestants.items():
            found[name].append(seconds(*words))
    print(f"\n{'seconds, process start to end':<32}{'median':>8}{'least':>8}{'most':>8}")
    for name, turns in found.items():
        measured = turns[1:]  # the first turn reads files that the machine then has in memory
        print(f"  {name:<30}{statistics.median(measured):>8.2f}{min(measured):>8.2f}{max(measured):>8.2f}")


if __name__ == "__main__":
    main()
