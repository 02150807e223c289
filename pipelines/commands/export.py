"""Write a trained encoder for other programs: as safetensors, as an ONNX network, or with torchvision's names."""

import argparse
import sys
from pathlib import Path

FORMATS = ("safetensors", "onnx", "torchvision")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument("encoder", help="experiment whose encoder is written, such as simclr")
    parser.add_argument("--to", choices=FORMATS, required=True, help="form of what is written")
    parser.add_argument("--seed", type=int, default=None, help="seed of the run; the first there is")
    parser.add_argument("--out", type=Path, default=None, help="folder; exports/<encoder>_<form>")


def run(options: argparse.Namespace) -> None:
    """Exit code 0; 2 when there is no such model, or it cannot be written so."""
    from mlml import export, model_folder

    folder = options.out or Path("exports") / f"{options.encoder}_{options.to}"
    try:
        method = model_folder.load(_model(options.encoder, options.seed))
        export.FORMATS[options.to](method, folder)
    except (export.ExportError, model_folder.ModelError) as error:
        print(f"mlml export: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for path in sorted(folder.iterdir()):
        print(path)


def _model(name: str, seed: int | None) -> Path:
    """The folder of one seed's model."""
    from mlml.config.sentences import suggest
    from mlml.model_folder import ModelError

    models = Path("models")
    names = sorted(path.name for path in models.glob("*") if path.is_dir())
    if name not in names:
        raise ModelError(f"models/{name}: does not exist{suggest(name, names)}; run 'dvc repro' or 'dvc pull' first")
    seeds = sorted(int(path.name.removeprefix("seed_")) for path in (models / name).glob("seed_[0-9]*"))
    if not seeds:
        raise ModelError(f"models/{name}: holds no seed; run 'dvc repro' or 'dvc pull' first")
    if seed is not None and seed not in seeds:
        raise ModelError(f"models/{name}: has no seed {seed}; take one of {', '.join(map(str, seeds))}")
    return models / name / f"seed_{seeds[0] if seed is None else seed}"
