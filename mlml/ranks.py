"""One training in several processes, started by torchrun: the same loop, each process with its part of every batch.

    <folder>/job.json               what is trained
    <folder>/base/                  of a composed method, what it stands on
    <folder>/evaluations.jsonl      the metrics of each evaluation, for who waits
    <folder>/failed_<rank>.json     what ended a rank
    <folder>/trained/               the trained method, and its validation metrics

`train` waits for a process of torchrun's, which starts the ranks and ends them all when one dies. Both end with the
process that called it. On the machines of a training that spans several, torchrun's own settings hold: PET_NNODES,
PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT in the environment of all; the others are started by hand, with
`torchrun -m mlml.ranks`, and are told by rank 0 what to train.
"""

import ctypes
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mlml import beside, catalogue, distributed, model_folder
from mlml.config import Declared, TrainConfig
from mlml.data.batches import split_batches
from mlml.data.dataset import PreparedData
from mlml.method import Method
from mlml.seeds import seed_everything
from mlml.train import fit

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1

TORCHRUN = "MLML_TORCHRUN"
"""Environment variable with the process id of the torchrun that started a rank: it ends when that does."""


class RankError(RuntimeError):
    """A process of a training has died; the message is its own error."""


class Job(NamedTuple):
    """What is trained.

    Attributes:
        data: folder of the prepared data, the same on every machine, relative to where the process was started.
        threads: of each process.
    """

    family: str
    method: str
    config: dict[str, Any]
    data: str
    seed: int
    threads: int


def needed(config: TrainConfig) -> bool:
    """Whether a training is one of several processes: as declared, or because it spans several machines."""
    return config.processes > 1 or os.environ.get("PET_NNODES", "1") != "1"


def train(
    family: str,
    method: str,
    config: Declared,
    data: Path,
    seed: int,
    folder: Path,
    on_evaluation: Callable[[int, dict[str, float]], None] | None = None,
    base: Method | None = None,
) -> tuple[Method, dict[str, float]]:
    """Train a method in `config.train.processes` processes, or go on from the checkpoint in `folder`.

    Args:
        family: section of params.yaml, such as "pretext".
        method: name of a file of that family.
        config: the method's own.
        data: folder of the prepared data.
        seed: of everything.
        folder: where checkpoints and metric points lie.
        on_evaluation: called here with (step, metrics) after each evaluation; what it raises ends the processes.
        base: of a composed method, what it stands on.

    Returns:
        The trained method, in eval mode on the processor, and its validation metrics.

    Raises:
        RankError: a process has died.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("failed_*.json"), folder / "evaluations.jsonl"]:
        old.unlink(missing_ok=True)
    shutil.rmtree(folder / "trained", ignore_errors=True)
    threads = torch.get_num_threads()
    job = Job(family, method, config.model_dump(mode="json"), str(data), seed, threads)
    (folder / "job.json").write_text(json.dumps(job._asdict()))
    if base is not None:
        model_folder.save(folder / "base", *catalogue.section_and_name(type(base)), base)
    environment = {
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # DDP warns that no parameter is unused, which `mlml.train` has its reason for
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    numbers: TrainConfig = config.train  # type: ignore[attr-defined]
    command = [sys.executable, "-m", "mlml.ranks", "start", str(folder), str(numbers.processes)]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
    try:
        _watch(process, folder / "evaluations.jsonl", on_evaluation)
    finally:
        beside.end(process, timeout_seconds=10.0)
    if process.returncode != 0:
        raise RankError(_first_failure(folder, process.returncode))
    trained = model_folder.load(folder / "trained")
    return trained, json.loads((folder / "trained" / "metrics.json").read_text())


def _watch(
    process: "subprocess.Popen[bytes]",
    evaluations: Path,
    on_evaluation: Callable[[int, dict[str, float]], None] | None,
) -> None:
    """Wait for the end, and tell of each evaluation."""
    told = 0
    while True:
        ended = process.poll() is not None
        lines = evaluations.read_text().splitlines(keepends=True) if evaluations.exists() else []
        for line in lines[told:]:
            if line.endswith("\n"):
                told += 1
                if on_evaluation is not None:
                    on_evaluation(*json.loads(line))
        if ended:
            return
        time.sleep(POLL_SECONDS)


def _first_failure(folder: Path, code: int) -> str:
    """The error that the others followed from: a kill, which they know as a lost connection only; else the first."""
    failures = [json.loads(path.read_text()) for path in folder.glob("failed_*.json")]
    if not failures:
        return f"train.processes: torchrun ended with exit code {code} before a process began; see what it printed"
    first = min(failures, key=lambda failure: (not failure["killed"], failure["time"]))
    way_out = (
        "; often that is for lack of memory: lower train.batch_size or train.processes; run it again, and it goes on "
        "from its checkpoint"
    )
    return f"process {first['rank']} of {first['ranks']}: {first['message']}{way_out if first['killed'] else ''}"


def _start(folder: Path, processes: int) -> None:
    """Be torchrun: start the ranks, wait for them, and write down what killed one."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    os.environ[TORCHRUN] = str(os.getpid())
    threading.Thread(target=_end_with_input, daemon=True).start()
    spans = os.environ.get("PET_NNODES", "1") != "1"
    where = [] if spans else ["--standalone"]
    arguments = parse_args([*where, f"--nproc-per-node={processes}", "-m", "mlml.ranks", "work", str(folder)])  # type: ignore[no-untyped-call]
    try:
        run(arguments)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:  # which torchrun sends to the others
                name = signal.Signals(-failure.exitcode).name
                ranks = processes * int(os.environ.get("PET_NNODES", 1))
                _write_failure(folder, rank, ranks, f"was ended by {name}", killed=True)
        raise SystemExit(1) from None


def _end_with_input() -> None:
    """End with the process that started this one; the ranks end with this one."""
    while os.read(0, 1):  # not `sys.stdin`, whose lock a thread must not hold when Python ends
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _write_failure(folder: Path, rank: int, ranks: int, message: str, killed: bool) -> None:
    failure = {"rank": rank, "ranks": ranks, "message": message, "killed": killed, "time": time.time()}
    partial = folder / f"failed_{rank}.partial"
    partial.write_text(json.dumps(failure))
    partial.replace(folder / f"failed_{rank}.json")


def _end_with_parent() -> None:
    """Have the kernel end this process with the one that started it, so that no rank outlives a killed stage."""
    parent = int(os.environ.get(TORCHRUN, os.getppid()))
    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the process that started this one has ended")


def _work(folder: Path | None) -> None:
    """Be one rank."""
    _end_with_parent()
    quiet = int(os.environ.get("RANK", 0)) > 0
    logging.basicConfig(level=logging.ERROR if quiet else logging.INFO, format="%(message)s")
    # of weights for one channel, whose strides are of no consequence
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    try:
        device = distributed.start()
        job, base = distributed.from_rank_zero(_read(folder) if distributed.rank() == 0 else None)
        _train(job, base, folder, device)
    except Exception as error:
        if folder is not None:
            rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
            _write_failure(folder, rank, ranks, f"{type(error).__name__}: {error}", killed=False)
        raise  # and end: to leave the group would be to wait for ranks that wait for this one
    distributed.stop()


def _read(folder: Path | None) -> tuple[Job, model_folder.Saved | None]:
    """The job, and what its method stands on, which the other machines need not have."""
    if folder is None:
        raise RankError("rank 0 must be on the machine of the stage; set PET_NODE_RANK to 0 there, and not here")
    job = Job(**json.loads((folder / "job.json").read_text()))
    return job, model_folder.read(folder / "base") if job.family == "composed" else None


def _train(job: Job, saved: model_folder.Saved | None, folder: Path | None, device: torch.device) -> None:
    torch.set_num_threads(job.threads)
    data = PreparedData(Path(job.data))
    base = model_folder.restore(saved) if saved is not None else None
    seed_everything(job.seed, "init")
    method = model_folder.build(job.family, job.method, job.config, data.spec, base)
    config: TrainConfig = method.config.train
    part = method.targets, distributed.rank(), distributed.world_size()
    batches = split_batches(data, "train", config.batch_size, job.seed, device, *part)
    judged = split_batches(data, "validation", config.batch_size, job.seed, device, method.targets)
    here = folder if distributed.rank() == 0 else None

    def tell(step: int, metrics: dict[str, float]) -> None:
        if here is not None:
            with (here / "evaluations.jsonl").open("a") as file:
                file.write(json.dumps([step, metrics]) + "\n")

    fitted = fit(method, batches, judged, config, job.seed, here or Path(), tell)
    if config.shard:
        method = _put_together(method, job, saved)
    if here is not None:
        model_folder.save(here / "trained", job.family, job.method, method)
        (here / "trained" / "metrics.json").write_text(json.dumps(fitted.metrics))


def _put_together(method: Method, job: Job, saved: model_folder.Saved | None) -> Method:
    """Return the method with whole parameters, on the processor; every rank must call it."""
    from mlml import sharding

    state = sharding.whole(method.state_dict())
    base = model_folder.restore(saved) if saved is not None else None
    built = model_folder.build(job.family, job.method, job.config, method.spec, base)
    built.load_state_dict(state)
    return built


def main() -> None:
    """Run `start FOLDER PROCESSES` or `work FOLDER`, or, started by hand under torchrun, join as a rank."""
    match sys.argv[1:]:
        case ["start", folder, processes]:
            _start(Path(folder), int(processes))
        case ["work", folder]:
            _work(Path(folder))
        case []:
            _work(None)
        case other:
            raise SystemExit(f"python -m mlml.ranks: takes no arguments under torchrun; got {' '.join(other)}")


if __name__ == "__main__":
    main()
