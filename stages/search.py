"""Search the numbers of an experiment: `python -m stages.search NAME`. A killed search goes on where it was."""

from stages._run import Stage, run_stage


def work(stage: Stage) -> None:
    """Run the trials; choices are made on validation alone."""
    from stages._searching import search

    search(stage)


if __name__ == "__main__":
    run_stage("search", work)
