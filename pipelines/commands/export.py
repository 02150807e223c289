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
    from pipelines.trained import model_folder_of

    folder = options.out or Path("exports") / f"{options.encoder}_{options.to}"
    try:
        method = model_folder.load(model_folder_of(options.encoder, options.seed))
        export.FORMATS[options.to](method, folder)
    except (export.ExportError, model_folder.ModelError) as error:
        print(f"mlml export: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for path in sorted(folder.iterdir()):
        print(path)
