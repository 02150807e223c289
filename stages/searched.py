"""Train an experiment with what a search found: `python -m stages.searched NAME`.

It is the work of the stage of the experiment's own family, with the same outputs.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from stages import composed, generative, pretext, supervised
from stages._run import Stage, run_stage

SEARCHES = Path("reports/search")

WORK: dict[str, Callable[[Stage], None]] = {
    "supervised": supervised.work,
    "pretext": pretext.work,
    "generative": generative.work,
    "composed": composed.work,
}
"""By family."""


def work(stage: Stage) -> None:
    """Put what was found into the entry, and train that as any of its family."""
    from mlml.searched import with_found

    experiments = dict(stage.declaration.experiments)
    experiment = experiments[stage.name] = with_found(experiments[stage.name], SEARCHES)
    stage.declaration = replace(stage.declaration, experiments=experiments)
    assert experiment.searched is not None
    stage.tags["mlml.search"] = experiment.searched.from_search
    WORK[experiment.family](stage)


if __name__ == "__main__":
    run_stage("searched", work)
