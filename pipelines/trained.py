"""Where the trained models of a project lie, for commands that are given an experiment's name."""

from pathlib import Path

MODELS = Path("models")


def model_folder_of(name: str, seed: int | None) -> Path:
    """Return the folder of one seed's model of an experiment.

    Args:
        name: of the experiment.
        seed: of the training; None for the first there is.

    Raises:
        ModelError: there is no such model; the sentence says which there are.
    """
    from mlml.config.sentences import suggest
    from mlml.model_folder import ModelError

    names = sorted(path.name for path in MODELS.glob("*") if path.is_dir())
    if name not in names:
        raise ModelError(f"models/{name}: does not exist{suggest(name, names)}; run 'dvc repro' or 'dvc pull' first")
    seeds = sorted(int(path.name.removeprefix("seed_")) for path in (MODELS / name).glob("seed_[0-9]*"))
    if not seeds:
        raise ModelError(f"models/{name}: holds no seed; run 'dvc repro' or 'dvc pull' first")
    if seed is not None and seed not in seeds:
        raise ModelError(f"models/{name}: has no seed {seed}; take one of {', '.join(map(str, seeds))}")
    return MODELS / name / f"seed_{seeds[0] if seed is None else seed}"
