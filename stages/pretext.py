"""Train a pretext experiment: `python -m stages.pretext NAME`. Probes measure its encoder.

reports/figures/<name>/seed_<s>_sheet.png      what the method does to test images, if it can show that
"""

from stages._run import Stage, run_stage

NUM_IMAGES = 12


def work(stage: Stage) -> None:
    """Train every seed; there is nothing to measure on test, but something to look at."""
    import torch

    from mlml import prediction_figures
    from mlml.data.batches import split_batches
    from mlml.data.dataset import PreparedData
    from mlml.method import Method, Reconstructs, Sheets
    from mlml.seeds import generator
    from stages._training import FIGURES, fresh_folder, train_experiment

    folder = fresh_folder(FIGURES / stage.name)

    @torch.no_grad()
    def show(method: Method, data: PreparedData, seed: int) -> dict[str, float]:
        if isinstance(method, Sheets | Reconstructs):
            device = next(method.parameters()).device
            test = split_batches(data, "test", method.config.train.batch_size, seed, device)
            images = test.at(test.sample(NUM_IMAGES)).images
            if isinstance(method, Sheets):
                rows = method.illustrate(images, generator(device, seed, "sheet"))
            else:
                rows = {"image": images, "again": method.reconstruct(images)}
            shown = {name: pictures.float().cpu().numpy() for name, pictures in rows.items()}
            prediction_figures.write_sheet(shown, folder / f"seed_{seed}_sheet.png")
        return {}

    train_experiment(stage, show)
    if any(folder.iterdir()):
        stage.run.log_artifact(folder)


if __name__ == "__main__":
    run_stage("pretext", work)
