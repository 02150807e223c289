"""What a stage costs beyond its training, cold and warm, with the server up: `python -m benchmarks.startup`.

The stage is `pretext@random`, which trains nothing: it checks the declaration, asks DVC for its lineage, is a Prefect
flow, builds an encoder, writes it, and has its run sent to MLflow's sqlite file. Warm, the parent that `mlml repro`
starts has imported what it needs, and forks it. Beside it, in the same run and in turns, a script does the work of the
stage without any record, and the imports are timed alone, for they are most of it and differ between machines. The
overhead of a stage is what it takes beyond its work: beyond the script without its import of torch. Processor time is
that of all processes of a stage, of which up to three work at once; on a machine that does other work it is what a
quiet one would take at least.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from mlml import declaration
from stages import _servers, _warm, _warm_start

STAGE = "random"
IMPORTS = ("torch", "prefect", "mlflow", "dvc.repo")
COLD, WARM, SCRIPT = "the stage, cold", "the stage, warm", "its work alone, a script"
VARIABLE = "TORCH_MLML_BENCHMARK"
"""It could be read by compiled libraries, so that the warm parent, started without it, does not serve the stage."""

WORK = f"""
from pathlib import Path
from tempfile import TemporaryDirectory
from mlml import declaration, model_folder
from mlml.data.dataset import PreparedData
from mlml.seeds import seed_everything
experiment = declaration.read().experiments["{STAGE}"]
data = PreparedData(Path("data/prepared") / experiment.dataset)
with TemporaryDirectory() as folder:
    for seed in experiment.seeds:
        seed_everything(seed, "init")
        method = model_folder.build(experiment.family, experiment.method, experiment.config, data.spec)
        model_folder.save(Path(folder) / f"seed_{{seed}}", experiment.family, experiment.method, method)
"""
"""What the stage is there for, as a script of somebody who keeps no record."""

READY_SECONDS = 120.0


class Spent(NamedTuple):
    """Seconds from process start to end, and of processors."""

    wall: float
    processor: float


def spent(parent: psutil.Process, environment: dict[str, str], *words: str) -> Spent:
    """Run Python once and return what it took, the fork of the warm parent included."""

    def processor() -> float:
        own, forks = resource.getrusage(resource.RUSAGE_CHILDREN), parent.cpu_times()
        return own.ru_utime + own.ru_stime + forks.children_user + forks.children_system

    start, before = time.perf_counter(), processor()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env={**os.environ, **environment})
    return Spent(time.perf_counter() - start, processor() - before)


def wait_until_ready(folder: Path) -> psutil.Process:
    """Wait until the warm parent has imported everything, what only some stages need included."""
    start = time.monotonic()
    while (found := _warm_start.running(folder)) is None or "imported" not in (folder / "log").read_text():
        if time.monotonic() - start > READY_SECONDS:
            raise SystemExit(f"the warm parent is not ready after {READY_SECONDS:.0f} s; its log: {folder / 'log'}")
        time.sleep(0.05)
    print(f"the warm parent has imported everything after {time.monotonic() - start:.1f} s")
    return psutil.Process(found[0])


def main() -> None:
    """Prepare what the stage needs, start the server and the parent, and take turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    root = Path.cwd()
    _servers.apply_settings(root)
    dataset = declaration.read().experiments[STAGE].dataset
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet", f"prepare@{dataset}"], check=True)
    os.environ["PREFECT_API_URL"] = _servers.ensure_prefect(root) or ""
    contestants = {
        COLD: ({VARIABLE: "cold"}, "-m", "stages", "pretext", STAGE),
        WARM: ({}, "-m", "stages", "pretext", STAGE),
        SCRIPT: ({}, "-c", WORK),
    }
    contestants |= {f"import {module}": ({}, "-c", f"import {module}") for module in IMPORTS}
    found: dict[str, list[Spent]] = {name: [] for name in contestants}
    with _warm_start.warm(root):
        folder = _warm.place(root, os.environ)
        parent = wait_until_ready(folder)
        for _ in range(repeats + 1):
            for name, words in contestants.items():
                found[name].append(spent(parent, *words))
        declined = [line for line in (folder / "log").read_text().splitlines() if "cold" in line or "ends" in line]
        if declined:
            raise SystemExit(f"the stage was not warm: {declined[-1]}")
    print(f"\n{'seconds, process start to end':<32}{'median':>8}{'least':>8}{'most':>8}{'processor':>11}")
    medians = {}
    for name, turns in found.items():
        walls = [turn.wall for turn in turns[1:]]  # the first turn reads files that the machine then has in memory
        processor = statistics.median(turn.processor for turn in turns[1:])
        medians[name] = statistics.median(walls)
        print(f"  {name:<30}{medians[name]:>8.2f}{min(walls):>8.2f}{max(walls):>8.2f}{processor:>11.2f}")
    work = medians[SCRIPT] - medians["import torch"]
    for name in (COLD, WARM):
        print(f"overhead of {name}: {medians[name] - work:.2f}")
    print(f"load of the last five minutes: {os.getloadavg()[1]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
