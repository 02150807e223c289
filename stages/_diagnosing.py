"""What the runs of an experiment say of themselves: told in the terminal, in MLflow and in a file.

reports/diagnostics/<name>.json      series by seed and layer, and the verdicts
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from mlml import diagnostics_file
from mlml.diagnostics import Record, diagnose, read
from mlml.tracking.run import Run
from stages._run import Stage

logger = logging.getLogger(__name__)

DIAGNOSTICS = Path("reports/diagnostics")


def diagnose_seed(run: Run, loss_falls: bool) -> Record:
    """Return what a seed's run of a method recorded, and say on the run what it means."""
    record = read(run.folder / "points.jsonl", loss_falls)
    _note(run, [verdict.sentence for verdict in diagnose(record)])
    return record


def write_diagnostics(stage: Stage, records: Mapping[int, Record]) -> None:
    """Write the diagnosis of every seed, say on the stage's run what it means, and warn of each illness."""
    path = DIAGNOSTICS / f"{stage.name}.json"
    found = diagnostics_file.write(path, records)
    stage.run.log_artifact(path, "diagnostics")  # the metrics have the same name
    _note(stage.run, found)
    for sentence in found:
        logger.warning("%s: %s", stage.name, sentence)


def _note(run: Run, sentences: list[str]) -> None:
    said = diagnostics_file.text(sentences)
    run.add_tags({"mlml.diagnosis": said, "mlflow.note.content": said.replace("\n", "\n\n")})
