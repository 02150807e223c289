"""What a run leaves on its Prefect page: the leaderboard, and links to the MLflow runs and to the report."""

import csv
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mlml.tracking import store
from pipelines.isolated import Isolated
from pipelines.reproduce import GOOD, Result
from stages import _lineage, _servers

logger = logging.getLogger(__name__)

KEY = "leaderboard"
LEADERBOARD = "leaderboard.csv"


def publish(write: Callable[[], str]) -> None:
    """Make the artifact of the present flow run; what goes wrong here is said, and does not fail the run."""
    from prefect.artifacts import create_markdown_artifact

    try:
        create_markdown_artifact(write(), key=KEY, description="The leaderboard, and the MLflow runs behind it.")
    except Exception as error:
        logger.warning("the artifact %r was not written: %s: %s", KEY, type(error).__name__, error)


def of_workspace(folder: Path, result: Result) -> str:
    """Write the page of a run in the workspace."""
    good = [name for name, stage in result.stages.items() if stage.state in GOOD]
    links = _workspace_links(folder, good)
    board = folder / "reports" / LEADERBOARD
    lines = ["# Leaderboard", ""]
    if board.exists():
        if "report" not in good:
            lines += ["As of the last report; this run did not write it anew.", ""]
        lines += _board(board, links)
    else:
        lines += ["No report has been written yet: run the target `report`.", ""]
    lines += [*_report_link(links), "## Stages", ""]
    rows = [
        (name, stage.state, f"{stage.seconds:.1f}" if stage.seconds else "", _link("run", links.get(name)))
        for name, stage in result.stages.items()
    ]
    return "\n".join(lines + _table(("stage", "state", "seconds", "MLflow"), rows))


def of_experiments(folder: Path, done: Sequence[tuple[Isolated, int]]) -> str:
    """Write the page of a run of isolated experiments."""
    uri, base = store.tracking_uri(folder), _servers.mlflow_url(folder)
    lines = []
    for one, code in done:
        state = "done" if code == 0 else f"failed with exit code {code}"
        values = ", ".join(f"`{path}={value}`" for path, value in one.overrides.items())
        lines += [
            f"# {one.name}",
            "",
            f"{values}: {state}. `dvc exp apply {one.name}` brings it into the workspace.",
            "",
        ]
        runs = {
            run.data.tags["dvc.stage"]: run
            for run in reversed(store.find_runs(uri, {"dvc.exp": one.name}))
            if "dvc.stage" in run.data.tags and store.NESTED_IN not in run.data.tags
        }
        links = {stage: store.run_url(base, run.info.experiment_id, run.info.run_id) for stage, run in runs.items()}
        if "report" in runs:
            with tempfile.TemporaryDirectory() as to:
                found = store.connect(uri).download_artifacts(runs["report"].info.run_id, LEADERBOARD, to)
                lines += _board(Path(found), links)
        lines += _report_link(links)
        lines += _table(("stage", "MLflow"), [(stage, _link("run", url)) for stage, url in links.items()])
    return "\n".join(lines)


def _workspace_links(folder: Path, stages: Iterable[str]) -> dict[str, str]:
    """Address of the MLflow run that made each stage's present outputs, where there is one."""
    base = _servers.mlflow_url(folder)
    links = {}
    for stage, lineage in _lineage.of_all(stages).items():
        ids = store.mlflow_ids(_lineage.run_folder(folder, lineage))
        if ids is not None:
            links[stage] = store.run_url(base, *ids)
    return links


def _board(file: Path, links: Mapping[str, str]) -> list[str]:
    with file.open(newline="") as text:
        rows = [
            (
                row["dataset"],
                row["encoder"],
                row["probe"],
                f"{float(row['mean']):.4f}" + (f" ± {float(row['interval95']):.4f}" if row["interval95"] else ""),
                f"{float(row['gain']):+.4f}" if row["gain"] else "",
                _link(row["stage"], links.get(row["stage"])),
            )
            for row in csv.DictReader(text)
        ]
    return _table(("data", "encoder", "probe", "accuracy", "over random", "run"), rows)


def _report_link(links: Mapping[str, str]) -> list[str]:
    return [f"{_link('The report', links['report'] + '/artifacts/index.html')}", ""] if "report" in links else []


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _link(text: str, url: str | None) -> str:
    return f"[{text}]({url})" if url else text
