"""The parallel run against a serial `dvc repro`, each from nothing; and what each costs when there is nothing to do.

`python -m benchmarks.reproduce` runs them in fresh copies of this repository's commit, one after the other, with the
declaration in experiments/quick.yaml; a serial run with cold stages and one with warm ones. With `--no-op` it makes a
project of sixty stages instead and measures the runs that find everything up to date.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SERIAL, PARALLEL = ("dvc", "repro", "--quiet"), ("mlml", "repro")


@contextmanager
def fresh_copy() -> Iterator[Path]:
    """A clone of this commit in a temporary folder, with servers of its own that are stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mlml-benchmark-"))
    try:
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        shutil.copy(folder / "experiments" / "quick.yaml", folder / "params.yaml")
        yield folder
    finally:
        run(folder, "mlml", "down")
        shutil.rmtree(folder)


def run(folder: Path, *words: str) -> float:
    """Run a command of the copy's own code, and return how long it took."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DVC_", "MLFLOW_"))}
    environment = {**clean, "PYTHONPATH": str(folder), "PATH": f"{BIN}:{clean['PATH']}", "DVC_NO_ANALYTICS": "1"}
    start = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - start


def from_nothing() -> None:
    """Print how long the default declaration takes, serially and side by side."""
    servers = (
        sys.executable,
        "-c",
        "from pathlib import Path; from stages import _servers as s; s.ensure_prefect(Path())",
    )
    rows = {
        "dvc repro": (servers, SERIAL),
        "dvc repro, after mlml up: warm stages": (("mlml", "up"), SERIAL),
        "mlml repro": (servers, PARALLEL),
    }
    seconds, locks = [], set()
    for before, command in rows.values():
        with fresh_copy() as folder:
            run(folder, *before)  # the servers' start is no part of it; all find them running
            seconds.append(run(folder, *command))
            locks.add((folder / "dvc.lock").read_bytes())
    print(f"\n{'the default declaration, from nothing':<44}{'seconds':>8}{'ratio':>8}")
    for title, value in zip(rows, seconds, strict=True):
        print(f"  {title:<42}{value:>8.1f}{seconds[0] / value:>8.2f}")
    print(f"  the same dvc.lock: {len(locks) == 1}")


def no_op(repeats: int) -> None:
    """Print what a run costs that finds sixty stages up to date."""
    found: dict[tuple[str, ...], list[float]] = {SERIAL: [], PARALLEL: []}
    with fresh_copy() as folder:
        stages = [
            f"  s{n}:\n    cmd: echo {n} > s{n}.out\n    deps: [params.yaml{f', s{n - 10}.out' if n > 9 else ''}]\n"
            f"    outs: [s{n}.out]\n"
            for n in range(60)
        ]
        (folder / "dvc.yaml").write_text("stages:\n" + "".join(stages))
        run(folder, *SERIAL)
        for _ in range(repeats + 1):
            for command, turns in found.items():
                turns.append(run(folder, *command))
    print(f"\n{'sixty stages, all up to date: seconds':<44}{'median':>8}{'least':>8}{'most':>8}")
    for command, turns in found.items():
        measured = turns[1:]  # the first turn reads files that the machine then has in memory
        row = statistics.median(measured), min(measured), max(measured)
        print(f"  {' '.join(command):<42}" + "".join(f"{value:>8.2f}" for value in row))


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-op", action="store_true", help="sixty stages that are up to date")
    parser.add_argument("--repeats", type=int, default=7, help="of the runs with nothing to do")
    options = parser.parse_args()
    no_op(options.repeats) if options.no_op else from_nothing()


if __name__ == "__main__":
    main()
