"""How alike images and their reconstructions are: squared error, PSNR, SSIM, and the FID of the reconstructions."""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, field_validator

from mlml import figures, metrics
from mlml.config import ComparingConfig
from mlml.evaluations._subject import BATCH_SIZE, EvaluationError, Real, as_saved, in_parts, named
from mlml.method import Method, Reconstructs

COLUMNS, ROWS = 8, 4


class ReconstructionQuality:
    """Images of test against what the method makes of each, mean over the images.

    The FID is of the reconstructions against the same images: it tells of blur, to which the squared error is blind.
    """

    measures = ("mse", "psnr", "ssim", "fid")
    needs = "reconstruct"

    class Config(ComparingConfig):
        """Numbers of the evaluation.

        Attributes:
            window: side of the windows of SSIM, in pixels: odd, and no larger than an image. The paper's is 11.
        """

        window: Annotated[int, Field(ge=3)] = 11

        @field_validator("window")
        @classmethod
        def _odd(cls, window: int) -> int:
            if window % 2 == 0:
                raise ValueError(f"must be odd; got {window}")
            return window

    def __init__(self, config: Config) -> None:
        self.config = config

    def evaluate(self, generator: Method, real: Real, seed: int, folder: Path) -> dict[str, float]:
        """Return the measures, and leave a picture of those that came out worst in `folder`.

        Raises:
            EvaluationError: the method does not reconstruct, or the window does not fit.
        """
        if not isinstance(generator, Reconstructs):
            raise EvaluationError(f"{type(generator).__name__} has no 'reconstruct', so there is nothing to compare")
        images = real.images(real.split)
        parts = iter(torch.split(images, BATCH_SIZE))
        again = in_parts(len(images), lambda _: generator.reconstruct(next(parts)))
        errors = metrics.squared_error(images, again)
        try:
            similarity = metrics.ssim(images, again, self.config.window)
        except ValueError as error:
            raise EvaluationError(f"window: {error}") from None
        worst = errors.argsort(descending=True, stable=True)[: ROWS * COLUMNS]
        shown = (images[worst].cpu().numpy(), again[worst].cpu().numpy())
        figures.pairs_grid(*shown, COLUMNS, folder / "worst_reconstructions.png")
        values = {
            "mse": float(errors.mean()),
            "psnr": float(metrics.psnr(images, again).mean()),
            "ssim": float(similarity.mean()),
            "fid": metrics.fid(real.held_out.features, real.extractor.see(as_saved(again)).features),
        }
        found = {f"{real.split}/{name}": value for name, value in values.items()} | named(values, real)
        return found | {"floor/fid": real.floor["fid"]}
