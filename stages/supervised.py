"""Train a supervised experiment: `python -m stages.supervised NAME`.

reports/figures/<name>/seed_<s>_confusion.png     true classes by predicted ones, on test
reports/figures/<name>/seed_<s>_mistakes.png      of a classifier: the most confident mistakes, if there are any
reports/figures/<name>/seed_<s>_masks.png         of a segmentation: images, true masks and predicted ones
"""

from stages._run import Stage, run_stage

NUM_MASKS = 10
NUM_MISTAKES = 16


def work(stage: Stage) -> None:
    """Train every seed; the test split is read with the final weights alone, and what is predicted of it is drawn."""
    import torch

    from mlml import prediction_figures, segmentation
    from mlml.data.batches import split_batches
    from mlml.data.dataset import PreparedData
    from mlml.method import Method, Scores
    from mlml.predictions import predict
    from mlml.train import evaluate
    from stages._training import FIGURES, fresh_folder, train_experiment

    folder = fresh_folder(FIGURES / stage.name)

    def assess(method: Method, data: PreparedData, seed: int) -> dict[str, float]:
        device = next(method.parameters()).device
        test = split_batches(data, "test", method.config.train.batch_size, seed, device, method.targets)
        metrics = {f"test/{name}": value for name, value in evaluate(method, test, seed).items()}
        if isinstance(method, Scores):
            is_dense = method.targets == "masks"
            classes = data.spec.mask_classes if is_dense else data.spec.classes
            found = predict(method, test, len(classes), NUM_MASKS, NUM_MISTAKES)
            prediction_figures.write_confusion(found.confusion, classes, folder / f"seed_{seed}_confusion.png")
            if found.mistakes is not None and len(found.mistakes.images):
                prediction_figures.write_mistakes(found.mistakes, classes, folder / f"seed_{seed}_mistakes.png")
            if is_dense:
                prediction_figures.write_masks(found.first, classes, folder / f"seed_{seed}_masks.png")
                pixels = torch.from_numpy(found.confusion)[None].double()
                metrics["test/dataset_iou"] = segmentation.mean_iou(pixels).item()
        return metrics

    train_experiment(stage, assess)
    stage.run.log_artifact(folder)


if __name__ == "__main__":
    run_stage("supervised", work)
