"""Turn a declared source into the one prepared form: `python -m stages.prepare NAME` writes data/prepared/NAME."""

import json
from pathlib import Path

from stages._run import Stage, run_stage

PREPARED = Path("data/prepared")


def work(stage: Stage) -> None:
    """Read the source, split it, and write arrays and spec.json."""
    from mlml import catalogue
    from mlml.data.prepare import prepare

    declared = stage.declaration.data[stage.name]
    folder = PREPARED / stage.name
    source = catalogue.method_class("data/sources", declared.source)
    spec = stage.steps.run(
        f"prepare {declared.source}",
        lambda: prepare(
            declared.source,
            source.Config.model_validate(declared.config.model_dump()),
            stage.name,
            declared.entry.validation_fraction,
            declared.entry.test_fraction,
            folder,
        ),
    )
    stage.run.log_artifact(folder / "spec.json")
    for split, size in spec.sizes.items():
        stage.run.log(f"size/{split}", size)
    shape = f"{spec.channels}x{spec.height}x{spec.width}"
    print(f"{folder}: {json.dumps(spec.sizes)} images of {shape}, {len(spec.classes)} classes")


if __name__ == "__main__":
    run_stage("prepare", work)
