"""Study a trained experiment: `python -m stages.study NAME`. A killed study goes on where it was."""

from stages._run import Stage, run_stage


def work(stage: Stage) -> None:
    """Look at the trained experiment, or train it anew on less; two kinds read the test split."""
    from stages._studying import study

    study(stage)


if __name__ == "__main__":
    run_stage("study", work)
