"""What the report's numbers open: a small page in .mlml/ that knows where MLflow is, and passes on to a key's runs.

The report cannot link to MLflow itself: the server's port and the number of the experiment differ between machines,
while the report's bytes are in dvc.lock.
"""

import json
import os
from pathlib import Path

from mlml.tracking.run import Notes
from stages import _servers

PAGE = Path(".mlml") / "runs.html"

_HTML = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<title>MLflow run</title>
<body style="font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 4rem auto; padding: 0 1rem">
<p id="said">This page opens the MLflow runs of a key, such as runs.html#0123456789abcdef.</p>
<script>
const server = SERVER, experiment = EXPERIMENT;
const key = location.hash.slice(1), said = document.getElementById("said");
const filter = encodeURIComponent("tags.`dvc.key` = '" + key + "'");
const runs = `${server}/#/experiments/${experiment}/runs?searchFilter=${filter}`;
if (!/^[0-9a-f]{16}$/.test(key)) {
} else if (experiment === null) {
  said.textContent = "MLflow has no run of this project yet; 'mlml sync' sends what waits.";
} else {
  fetch(`${server}/health`, {mode: "no-cors"}).then(
    () => location.replace(runs),
    () => { said.textContent = `MLflow does not answer at ${server}: start it by 'make up', and reload this page. ` +
      `In a terminal, 'mlml why ${key}' tells the same.`; });
}
</script>
"""


def link(key: str) -> str:
    """Return what opens the runs of a key, for a page in reports/."""
    return f"../{PAGE.as_posix()}#{key}"


def write_page(root: Path, experiment_id: str | None = None) -> Path:
    """Write the page for the server as it is now.

    Args:
        root: the project.
        experiment_id: MLflow's, where the caller knows it; else that of the run that was sent last.
    """
    facts = {"SERVER": _servers.mlflow_url(root).rstrip("/"), "EXPERIMENT": experiment_id or _experiment_id(root)}
    text = _HTML
    for name, value in facts.items():
        # "<" could end the script
        text = text.replace(name, json.dumps(value).replace("<", "\\u003c"), 1)
    path = root / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
    return path


def _experiment_id(root: Path) -> str | None:
    sent = sorted((root / ".mlml" / "runs").glob(f"*/*/{Notes.FILE}"), key=lambda path: path.stat().st_mtime)
    notes = Notes.read(sent[-1].parent) if sent else None
    return notes.experiment_id if notes else None
