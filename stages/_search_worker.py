"""A process that takes part in a search: beside its stage, or wherever its study is reached (`mlml search worker`)."""

import importlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from mlml import beside, declaration
from mlml.tracking.run import Record, Run
from mlml.tracking.sender import reason
from mlml.tracking.store import NESTED_IN, tracking_uri
from mlml.tracking.sync import SyncProcess
from stages import _lineage, _servers
from stages._flow_process import FlowProcess, fault_of
from stages._run import EXPERIMENT, tags_of
from stages._steps import log_to_console

logger = logging.getLogger(__name__)

OnEnd = Callable[[list[Any] | None], None]
"""Hears the end of a trial: (fault, as `stages._flow_process` has it)."""

OnBegin = Callable[[int], OnEnd]
"""Hears that a trial begins: (its number) -> what hears its end."""

GO = b"go"
"""Told to a worker beside a stage when the search is begun; until then it imports."""

MODULES = ("torch", "optuna", "mlml.search._study", "mlml.train", "stages._trials", "stages._training")


class Participant:
    """Runs trials of a search whose stage is at work, in the folder of the stage's run where that is on this machine.

    Elsewhere it makes that folder for its own trials, whose runs it ends itself; here their stage does.

    Attributes:
        lineage: of the stage; equal to that of the stage at work, so that both vary the same code, data and numbers.
    """

    def __init__(self, name: str) -> None:
        self.name, self.address = name, f"search@{name}"
        self.root, self.lineage = _lineage.store_root(), _lineage.of(f"search@{name}")
        self.folder = _lineage.run_folder(self.root, self.lineage)
        self._above: dict[str, str] = {}

    @cached_property
    def elsewhere(self) -> bool:
        """Whether the stage works on another machine; asked when it is at work."""
        here = Record.read(self.folder)
        return here is None or here.status == "FINISHED"  # by an earlier search of the same

    def take_part(self, on_begin: OnBegin) -> int:
        """Run trials until none of the search is left; returns how many this process ran.

        Raises:
            SearchError: no such search is under way.
            DeclarationError: params.yaml has faults.
        """
        import torch
        from optuna import TrialPruned

        from mlml import distributed
        from mlml.search._study import Record as TrialRecord
        from mlml.search._study import Report, take_part
        from stages._training import clear_checkpoints, device_name
        from stages._trials import Trials, ending

        declared = declaration.read()
        torch.set_num_threads(declared.threads)
        device = distributed.start()
        tags = tags_of(self.address, self.name, self.lineage) | {"device": device_name(device)}
        runs: dict[int, Run] = {}

        def open_run(label: str, values: dict[str, Any], about: dict[str, str]) -> Run:
            nested, title = {**tags, **about} | self._parent(), f"{self.name} {label}"
            above = None if self.elsewhere else self.folder
            run = runs[int(about["mlml.trial"])] = Run.open(
                self.folder / label, title, EXPERIMENT, nested, values, above
            )
            return run

        trials = Trials(declared, self.name, self.folder, device, open_run)

        def objective(values: dict[str, Any], number: int, folder: Path, report: Report, /) -> Any:
            on_end, fault = on_begin(number), None
            try:
                return trials(values, number, folder, report)
            except TrialPruned:
                raise
            except BaseException as error:
                fault = fault_of(error)
                raise
            finally:
                on_end(fault)

        def close(trial: TrialRecord) -> None:
            if self.elsewhere and (run := runs.get(trial.number)) is not None:
                run.finish("FINISHED", ending(trial.state, trial.failure) | self._parent())

        search = trials.config, trials.sampler, trials.study, objective, trials.seed, trials.study_name
        try:
            take_part(*search, join=True, on_end=close)
        finally:
            for run in runs.values():
                run.leave()
        if self.elsewhere:
            clear_checkpoints(self.folder)
        return len(runs)

    def _parent(self) -> dict[str, str]:
        """Tag that nests a trial in the stage's run, where only MLflow has that; it may have it a little later."""
        if self.elsewhere and not self._above:
            from mlml.tracking.store import find_runs

            uri, wanted = tracking_uri(self.root), {"dvc.stage": self.address, "dvc.key": self.lineage.key}
            try:
                found = find_runs(uri, wanted)
            except Exception as error:  # MLflow is away, which stops no trial
                logger.warning("MLflow at %s does not tell the run of %s: %s", uri, self.address, reason(error))
                found = []
            at_work = [run for run in found if run.info.status == "RUNNING" and NESTED_IN not in run.data.tags]
            self._above = {NESTED_IN: at_work[0].info.run_id} if at_work else {}
        return self._above


def alone(name: str) -> int:
    """Take part as a process that nobody watches: its trials are steps of a flow run of its own.

    Returns:
        How many trials it ran.

    Raises:
        SearchError: no such search is under way.
        DeclarationError: params.yaml has faults.
    """
    log_to_console()
    participant = Participant(name)
    _servers.apply_settings(participant.root)
    syncer = SyncProcess(tracking_uri(participant.root)) if participant.elsewhere else None
    flow = FlowProcess()
    try:
        api = _servers.ensure_prefect(participant.root)
        flow.begin("search worker", participant.address, api, {"search": name})
        if syncer is not None:
            syncer.begin(participant.folder)
        with flow:
            return participant.take_part(lambda number: flow.beside(f"trial {number}"))
    finally:
        if syncer is not None:
            syncer.close()
        flow.close()


def follow(name: str, told: BinaryIO, telling: int) -> int:
    """Take part beside the stage that speaks through `told`, and hears in `telling`; returns the exit code."""
    log_to_console()
    participant = Participant(name)
    with beside.importing():
        for module in MODULES:
            importlib.import_module(module)
    if told.readline().rstrip() != GO:
        return 0  # the stage has ended before it had a search
    lock, over = threading.Lock(), threading.Event()
    threading.Thread(target=_end_with_stage, args=(told, over), daemon=True, name="end-with-stage").start()
    with os.fdopen(telling, "w", buffering=1) as stage:

        def tell(*words: Any) -> None:
            with lock:
                stage.write(json.dumps(words) + "\n")

        def on_begin(number: int) -> OnEnd:
            tell("begin", number)
            return lambda fault: tell("end", number, fault)

        participant.take_part(on_begin)
        over.set()  # before the stage can hear that it is
    logging.shutdown()
    return 0


def _end_with_stage(told: BinaryIO, over: threading.Event) -> None:
    told.read()
    if not over.is_set():
        os._exit(1)


def main() -> None:
    """Take part beside the stage: `python -m stages._search_worker NAME DESCRIPTOR`, where the stage listens."""
    os._exit(follow(sys.argv[1], sys.stdin.buffer, int(sys.argv[2])))  # taking torch apart takes long


if __name__ == "__main__":
    main()
