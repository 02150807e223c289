"""Train a supervised experiment: `python -m stages.supervised NAME`."""

from stages._run import Stage, run_stage


def work(stage: Stage) -> None:
    """Train every seed; the test split is read once, with the final weights."""
    from mlml.data.dataset import PreparedData
    from mlml.method import Method
    from mlml.train import evaluate
    from stages._training import split_batches, train_experiment

    def assess(method: Method, data: PreparedData, seed: int) -> dict[str, float]:
        device = next(method.parameters()).device
        test = split_batches(data, "test", method.config.train.batch_size, seed, device)
        return {f"test/{name}": value for name, value in evaluate(method, test, seed).items()}

    train_experiment(stage, assess)


if __name__ == "__main__":
    run_stage("supervised", work)
