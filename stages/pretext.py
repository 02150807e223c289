"""Train a pretext experiment: `python -m stages.pretext NAME`. Probes measure its encoder; labels are not read here."""

from stages._run import Stage, run_stage


def work(stage: Stage) -> None:
    """Train every seed; there is nothing to measure on test."""
    from stages._training import train_experiment

    train_experiment(stage, lambda method, data, seed: {})


if __name__ == "__main__":
    run_stage("pretext", work)
