"""Runs with other numbers that leave the workspace alone: each a `dvc exp run --temp`, side by side.

`dvc exp show` lists them, `dvc exp apply NAME` brings one into the workspace, and their MLflow runs carry the tag
`dvc.exp`.
"""

import contextvars
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlml.config import DeclarationError
from pipelines import overrides
from pipelines.dvc_process import DvcProcess

logger = logging.getLogger(__name__)
output = logging.getLogger("pipelines.output")

RAW = Path("data/raw")


@dataclass(frozen=True)
class Isolated:
    """A run with other numbers.

    Attributes:
        overrides: dotted path -> value.
        log: what it printed.
    """

    name: str
    overrides: Mapping[str, Any]
    log: Path


def declare(folder: Path, values: Mapping[str, Sequence[Any]], prefix: str | None = None) -> list[Isolated]:
    """Name and check every combination of values, before any runs.

    Args:
        folder: the workspace.
        values: dotted path -> the values to try.
        prefix: of the names, or the whole name where there is one combination; by default a name is made of the values
            that differ.

    Raises:
        DeclarationError: with the faults of every combination.
    """
    text = (folder / "params.yaml").read_text()
    combinations = overrides.combinations(values)
    taken, found, faults = _taken_names(), [], []
    varied = [path for path, given in values.items() if len(given) > 1] or list(values)
    for number, chosen in enumerate(combinations, 1):
        wanted = overrides.name({path: chosen[path] for path in varied}) if prefix is None else prefix
        if prefix is not None and len(combinations) > 1:
            wanted = f"{prefix}-{number}"
        name = _free(wanted, taken)
        taken.add(name)
        try:
            overrides.check(text, chosen)
        except DeclarationError as error:
            faults += [f"{name}: {fault}" for fault in error.faults]
        found.append(Isolated(name, chosen, folder / ".mlml" / "reproduce" / "logs" / f"experiment-{name}.log"))
    if faults:
        raise DeclarationError(faults)
    return found


def run(
    folder: Path,
    experiments: Sequence[Isolated],
    targets: Sequence[str],
    jobs: int,
    environment: Mapping[str, str],
    step: Callable[[str, Callable[[], int]], int],
) -> dict[str, int]:
    """Run experiments side by side.

    Args:
        folder: the workspace.
        experiments: from `declare`.
        targets: of each; none mean everything.
        jobs: how many at once.
        environment: of each, over that of this process.
        step: runs a piece of work under a name, as a Prefect task; called in threads.

    Returns:
        Exit code by name.

    Raises:
        BaseException: an interrupt, once every run has been ended.
    """
    processes = {one.name: _process(folder, one, targets, environment) for one in experiments}
    pool = ThreadPoolExecutor(max_workers=max(1, jobs), thread_name_prefix="experiment")

    def work(one: Isolated) -> int:
        logger.info("%s: starts with %s", one.name, json.dumps(dict(one.overrides)))
        code = processes[one.name].run(lambda line: output.info("%s | %s", one.name, line)).code
        logger.info("%s: %s", one.name, "done" if code == 0 else f"failed with exit code {code}; its log: {one.log}")
        return code

    try:
        codes = {
            one.name: pool.submit(contextvars.copy_context().run, step, one.name, partial(work, one))
            for one in experiments
        }
        return {name: code.result() for name, code in codes.items()}
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        with ThreadPoolExecutor(max_workers=len(processes)) as ending:
            list(ending.map(DvcProcess.end, processes.values()))
        raise
    finally:
        pool.shutdown()


def _process(folder: Path, one: Isolated, targets: Sequence[str], environment: Mapping[str, str]) -> DvcProcess:
    settings = [word for path, value in one.overrides.items() for word in ("-S", f"{path}={json.dumps(value)}")]
    # git has no raw files, so an isolated copy would lack them
    raw = [file for file in (folder / RAW).rglob("*") if file.name != ".gitkeep"]
    copied = ["--copy-paths", str(RAW)] if raw else []
    words = ["exp", "run", "--temp", "--name", one.name, *settings, *copied, *targets]
    return DvcProcess("pipelines.isolated_dvc", words, folder, environment, one.log)


def _taken_names() -> set[str]:
    """Names of the experiments that exist."""
    from dvc.repo import Repo

    with Repo() as repo:
        return {name for names in repo.experiments.ls(all_commits=True).values() for name, _ in names}


def _free(name: str, taken: set[str]) -> str:
    """Return the name, or the first of name-2, name-3 and so on that is not taken."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found
