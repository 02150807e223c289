"""Evaluate a trained generator by an extractor: `python -m stages.evaluation NAME`. Nothing is trained."""

from stages._run import Stage, run_stage


def work(stage: Stage) -> None:
    """Evaluate the generator of every seed against the test split."""
    from stages._evaluating import evaluate

    evaluate(stage)


if __name__ == "__main__":
    run_stage("evaluation", work)
