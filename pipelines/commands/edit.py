"""Draw a part of an image anew, as a text says, by a trained generator that can."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument("experiment", help="experiment whose model draws")
    parser.add_argument("--image", type=Path, required=True, help="image file, of the size that was trained on")
    parser.add_argument("--mask", type=Path, required=True, help="image file of the same size: white is drawn anew")
    parser.add_argument("--text", required=True, help="what is to be seen there")
    parser.add_argument("--seed", type=int, default=0, help="of the draws; 0")
    parser.add_argument("--model-seed", type=int, default=None, help="seed of the training; the first there is")
    parser.add_argument("--out", type=Path, default=None, help="file; samples/<experiment>_edited.png")


def run(options: argparse.Namespace) -> None:
    """Exit code 0; 2 when there is no such model, it cannot edit, or a file is not what it must be."""
    from mlml import drawing, model_folder
    from pipelines.trained import model_folder_of

    path = options.out or Path("samples") / f"{options.experiment}_edited.png"
    try:
        method = model_folder.load(model_folder_of(options.experiment, options.model_seed))
        image = drawing.read_image(options.image, method)
        mask = drawing.read_image(options.mask, method, channels=1)[:, 0] >= 0.5
        edited = drawing.edit(method, image, mask, options.text, options.seed)
        drawing.write_image(edited[0], path)
    except (drawing.DrawingError, model_folder.ModelError) as error:
        print(f"mlml edit: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(path)
