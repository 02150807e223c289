"""Search the numbers of an experiment: `python -m stages.search NAME`. A killed search goes on where it was."""

from typing import Any

from stages._run import Stage, run_stage


def work(stage: Stage) -> None:
    """Run the trials; choices are made on validation alone."""
    from stages._searching import search

    search(stage)


def begin_workers(name: str, fork: bool) -> Any:
    """Begin the processes that take part beside the stage; they import for as long as it does."""
    from stages._search_workers import begin

    return begin(name, fork)


if __name__ == "__main__":
    run_stage("search", work, begin_workers)
