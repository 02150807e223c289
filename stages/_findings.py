"""What studies and illustrations write.

reports/findings/<name>/         values.csv, every number behind the pictures; sentences.json
reports/figures/<name>/          each picture for light and, with the ending _dark, for dark pages
reports/metrics/<name>.json      as of every experiment
"""

import json

from mlml import figures
from mlml.findings import Findings
from stages._run import Stage
from stages._training import FIGURES, REPORTED_FINDINGS, fresh_folder, write_metrics


def write_findings(stage: Stage, findings: Findings) -> None:
    """Write numbers, pictures, table and sentences, and log them with the stage's run."""
    folder, pictures = fresh_folder(REPORTED_FINDINGS / stage.name), fresh_folder(FIGURES / stage.name)
    findings.table.to_csv(folder / "values.csv", index=False, lineterminator="\n")
    (folder / "sentences.json").write_text(json.dumps(list(findings.sentences), indent=0, ensure_ascii=False) + "\n")
    for kind, draw in findings.pictures.items():
        for theme, ending in ((figures.LIGHT, ""), (figures.DARK, "_dark")):
            figures.write_png(draw(theme), pictures / f"{kind.replace(' ', '_')}{ending}.png")
    write_metrics(stage, findings.metrics)
    for path in (folder, pictures):
        stage.run.log_artifact(path)
    for sentence in findings.sentences:
        print(sentence)
