"""Evaluate a frozen encoder by a probe: `python -m stages.probe NAME`."""

from stages._run import Stage, run_stage


def work(stage: Stage) -> None:
    """Evaluate the encoder of every seed."""
    from stages._probing import probe

    probe(stage)


if __name__ == "__main__":
    run_stage("probe", work)
