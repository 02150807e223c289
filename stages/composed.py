"""Train a generative experiment on another trained model and draw from it: `python -m stages.composed NAME`."""

from stages._run import Stage, run_stage


def work(stage: Stage) -> None:
    """Train, measure and draw."""
    from stages._generating import generate

    generate(stage)


if __name__ == "__main__":
    run_stage("composed", work)
