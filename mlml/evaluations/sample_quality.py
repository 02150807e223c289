"""How good the images of a generator are, and how various: FID, KID, precision, recall, density, coverage."""

from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from mlml import figures, metrics
from mlml.config import ComparingConfig
from mlml.evaluations._inception import LABEL, Inception
from mlml.evaluations._pictures import write_class_histogram
from mlml.evaluations._subject import BATCH_SIZE, EvaluationError, Real, as_saved, compared, in_parts, named, now
from mlml.method import Method, Samples, SamplesClasses
from mlml.seeds import generator as seeded

SHOWN, COLUMNS = 64, 8


class SampleQuality:
    """Samples against real images of test, beside the floor: those of train against them, as many of each.

    A method that can be told a class is asked for every class as often, and `conditional_accuracy` is the share of
    those samples that the extractor takes for what was asked.
    """

    measures = (
        "fid",
        "fid_infinity",
        "kid",
        "inception_score",
        "precision",
        "recall",
        "density",
        "coverage",
        "class_distance",
    )
    measures_if_offered = (("sample_classes", "conditional_accuracy"),)
    needs = "sample"

    class Config(ComparingConfig):
        """Numbers of the evaluation.

        Attributes:
            num_asked: samples of the conditional accuracy.
            inception: whether the FID of Inception's features is told as well, where its weights lie on disk.
        """

        num_asked: PositiveInt = 1000
        inception: bool = False

    def __init__(self, config: Config) -> None:
        self.config = config
        self._inception: tuple[Inception, metrics.Moments, float] | None = None

    def evaluate(self, generator: Method, real: Real, seed: int, folder: Path) -> dict[str, float]:
        """Return the measures; `system/sample_seconds` is what the samples took. Leaves pictures in `folder`.

        Raises:
            EvaluationError: the method does not sample, or Inception's weights are not there.
        """
        if not isinstance(generator, Samples):
            raise EvaluationError(f"{type(generator).__name__} has no 'sample', so its samples cannot be evaluated")
        if self.config.inception and self._inception is None:
            self._inception = _read_inception(real)  # before the samples, which may take hours
        draws, started = seeded(real.device, seed, "evaluation"), now(real.device)
        images = in_parts(real.count, lambda count: generator.sample(count, draws))
        seconds = now(real.device) - started
        figures.image_grid(images[:SHOWN].cpu().numpy(), COLUMNS, folder / "samples.png")
        images = as_saved(images)
        seen = real.extractor.see(images)
        write_class_histogram(
            real.held_out.classes().cpu().numpy(),
            seen.classes().cpu().numpy(),
            real.classes,
            real.split,
            folder / "class_histogram.png",
        )
        values = compared(real.held_out, seen, seed)
        if isinstance(generator, SamplesClasses):
            values["conditional_accuracy"] = self._conditional_accuracy(generator, real, seed)
        found = {f"{real.split}/{name}": value for name, value in values.items()} | named(values, real)
        found |= {f"floor/{name}": value for name, value in real.floor.items()}
        if self._inception is not None:
            found |= self._by_inception(images, real)
        return found | {"system/sample_seconds": seconds}

    def _conditional_accuracy(self, generator: SamplesClasses, real: Real, seed: int) -> float:
        asked = torch.arange(self.config.num_asked, device=real.device) % len(real.classes)
        draws, parts = seeded(real.device, seed, "evaluation", "classes"), iter(torch.split(asked, BATCH_SIZE))
        images = in_parts(len(asked), lambda _: generator.sample_classes(next(parts), draws))
        taken = real.extractor.see(as_saved(images)).classes()
        return float((taken == asked).double().mean())

    def _by_inception(self, images: Float[Tensor, "n c h w"], real: Real) -> dict[str, float]:
        assert self._inception is not None
        network, held_out, floor = self._inception
        value = metrics.frechet_distance(held_out, metrics.moments([network.features(images)]))
        names = (f"{real.split}/fid_inception", f"{real.split}/fid_{LABEL}_n{real.count}")
        return {**dict.fromkeys(names, value), "floor/fid_inception": floor}


def _read_inception(real: Real) -> tuple[Inception, metrics.Moments, float]:
    """The network, what it sees in the real images, and how far those of train are from that."""
    network = Inception(real.device)
    held_out, train = (metrics.moments([network.features(real.images(split))]) for split in (real.split, "train"))
    return network, held_out, metrics.frechet_distance(held_out, train)
