"""Draw how an ingredient behaves by itself: `python -m stages.illustration NAME`. It needs no data."""

from stages._run import Stage, run_stage


def work(stage: Stage) -> None:
    """Compute and draw it."""
    import torch

    from mlml import catalogue
    from stages._findings import write_findings

    torch.set_num_threads(stage.declaration.threads)
    experiment = stage.declaration.experiments[stage.name]
    method_class = catalogue.method_class(catalogue.SECTIONS["illustration"], experiment.method)
    method = method_class(method_class.Config.model_validate(experiment.config.model_dump()))
    findings = stage.steps.run("illustrate", method.illustrate)
    stage.steps.run("write outputs", lambda: write_findings(stage, findings))


if __name__ == "__main__":
    run_stage("illustration", work)
