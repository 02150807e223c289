"""Draw images from a trained generator: of anything, of a class, or of a text."""

import argparse
import sys
from pathlib import Path

GRID_COLUMNS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument("experiment", help="experiment whose model draws, such as vae")
    parser.add_argument("--count", type=_positive, default=64, help="images to draw; 64")
    parser.add_argument("--seed", type=int, default=0, help="of the draws; the same seed draws the same images; 0")
    parser.add_argument("--class", dest="label", default=None, help="name or number of the class to draw")
    parser.add_argument("--text", default=None, help="what the images are to show")
    parser.add_argument("--steps", type=_positive, default=None, help="steps of a sampler that takes them")
    parser.add_argument("--model-seed", type=int, default=None, help="seed of the training; the first there is")
    parser.add_argument("--out", type=Path, default=None, help="folder; samples/<experiment>")


def run(options: argparse.Namespace) -> None:
    """Exit code 0; 2 when there is no such model, or it cannot draw what is asked for."""
    from mlml import drawing, figures, model_folder
    from pipelines.trained import model_folder_of

    folder = options.out or Path("samples") / options.experiment
    try:
        method = model_folder.load(model_folder_of(options.experiment, options.model_seed))
        images = drawing.draw(method, options.count, options.seed, options.label, options.text, options.steps)
        paths = [folder / f"{number:0{len(str(options.count - 1))}}.png" for number in range(options.count)]
        for image, path in zip(images, paths, strict=True):
            drawing.write_image(image, path)
    except (drawing.DrawingError, model_folder.ModelError) as error:
        print(f"mlml sample: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    figures.image_grid(images.numpy(), GRID_COLUMNS, folder / "grid.png")
    print(f"{folder / 'grid.png'}, and {options.count} images beside it")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {value}")
    return value
