"""Whether the images of a generator, and its edits, show what their text asks for, as a tagger sees them."""

from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from mlml import tagging
from mlml.config import EvaluationConfig
from mlml.evaluations._pictures import write_captioned, write_scales, write_word_recall
from mlml.evaluations._subject import BATCH_SIZE, EvaluationError, as_saved, in_parts, now
from mlml.evaluations._texts import Captioned
from mlml.method import Edits, Method, SamplesTexts
from mlml.seeds import generator as seeded

SHOWN = 24


class TextAgreement:
    """Captions of test are asked for, and a tagger says which words it finds in what came.

    `text_agreement` is the share of samples in which it finds all words that were asked for and no others,
    `word_accuracy` the share of a caption's words that it finds, mean over samples. The floor is the same of the real
    images of these captions: the tagger errs, too, and no generator can be expected above it. GenEval (Ghosh et al.
    2023, arXiv:2310.11513) judges so, with a detector in the place of the tagger.

    The guidance scale is the one of `guidance_scales` with the highest agreement on captions of validation.

    A method that edits is asked to repaint a region of test images by another caption, at the same scale.
    `edit_agreement` is the agreement of the edited images, and `edit_outside_equal` the share of them that are
    outside the region bit for bit what they were: 1, or the method does not edit.
    """

    measures = ("text_agreement", "word_accuracy", "guidance_scale")
    measures_if_offered = (("edit", "edit_agreement"), ("edit", "edit_outside_equal"))
    needs = "sample_texts"
    extractor_targets = "captions"

    class Config(EvaluationConfig):
        """Numbers of the evaluation.

        Attributes:
            num_asked: captions that are asked for.
            guidance_scales: that are tried; with one there is nothing to choose.
            num_tried: captions of validation that each of them is tried with.
            num_edits: images that are edited.
            edit_margin: pixels by which the box of what is painted anew is wider than what it holds, on each side.
        """

        num_asked: PositiveInt = 1000
        guidance_scales: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = (1.0, 2.0, 4.0)
        num_tried: PositiveInt = 250
        num_edits: PositiveInt = 500
        edit_margin: NonNegativeInt = 2

        @field_validator("guidance_scales")
        @classmethod
        def _increasing(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
            if list(scales) != sorted(set(scales)):
                raise ValueError(f"must increase; got {list(scales)}")
            return scales

    def __init__(self, config: Config) -> None:
        self.config = config

    def evaluate(self, generator: Method, captioned: Captioned, seed: int, folder: Path) -> dict[str, float]:
        """Return the measures; `system/sample_seconds` is what the samples took. Leaves pictures in `folder`.

        Raises:
            EvaluationError: the method samples no texts, or no image of the split can be edited.
        """
        if not isinstance(generator, SamplesTexts):
            raise EvaluationError(f"{type(generator).__name__} has no 'sample_texts', so there is nothing to ask it")
        scale, tried = self._chosen(generator, captioned, seed, folder)
        asked, split = captioned.asked(captioned.split, self.config.num_asked), captioned.split
        draws, started = seeded(captioned.device, seed, "evaluation"), now(captioned.device)
        images = as_saved(_sampled(generator, asked.captions, draws, scale))
        seconds = now(captioned.device) - started
        found = captioned.tagger.words(images)
        right = tagging.same(asked.words, found)
        real = captioned.tagger.words(asked.images)
        strips = images[:SHOWN, None].cpu().numpy()
        write_captioned(strips, asked.captions[:SHOWN], right.tolist(), 6, folder / "samples.png")
        write_word_recall(asked.words, {"real": real, "samples": found}, captioned.vocabulary, folder / "words.png")
        agreement = float(right.double().mean())
        values = {
            f"{split}/text_agreement": agreement,
            f"{split}/word_accuracy": float(tagging.share_found(asked.words, found).double().mean()),
            f"{split}/guidance_scale": scale,
            "floor/text_agreement": float(tagging.same(asked.words, real).double().mean()),
            "floor/word_accuracy": float(tagging.share_found(asked.words, real).double().mean()),
            f"{split}/text_agreement_{captioned.tagger.label}_n{len(images)}": agreement,
        }
        if isinstance(generator, Edits):
            values |= self._edited(generator, captioned, seed, scale, folder)
        return values | tried | {"system/sample_seconds": seconds}

    def _chosen(
        self, generator: SamplesTexts, captioned: Captioned, seed: int, folder: Path
    ) -> tuple[float, dict[str, float]]:
        """The scale that agrees best on validation, the lowest of equals, and how far each agrees; from one noise."""
        scales = self.config.guidance_scales
        if len(scales) == 1:
            return scales[0], {}
        asked = captioned.asked("validation", self.config.num_tried)
        real = tagging.same(asked.words, captioned.tagger.words(asked.images))
        agreements = []
        for scale in scales:
            draws = seeded(captioned.device, seed, "evaluation", "scales")
            images = as_saved(_sampled(generator, asked.captions, draws, scale))
            agreements.append(float(tagging.same(asked.words, captioned.tagger.words(images)).double().mean()))
        write_scales(scales, agreements, float(real.double().mean()), folder / "guidance.png")
        tried = dict(zip(scales, agreements, strict=True))
        chosen = max(scales, key=lambda scale: tried[scale])  # the first of equals
        return chosen, {f"validation/text_agreement_at_{scale:g}": tried[scale] for scale in scales}

    def _edited(
        self, generator: Edits, captioned: Captioned, seed: int, scale: float, folder: Path
    ) -> dict[str, float]:
        edits = captioned.edits(self.config.num_edits, self.config.edit_margin)
        draws, parts = seeded(captioned.device, seed, "evaluation", "edits"), iter(_slices(len(edits.captions)))

        def edited(_: int) -> Tensor:
            part = next(parts)
            return generator.edit(edits.images[part], edits.masks[part], edits.captions[part], draws, scale)

        images = in_parts(len(edits.captions), edited)
        right = tagging.same(edits.words, captioned.tagger.words(as_saved(images)))
        hidden = torch.where(edits.masks[:, None], 0.5, edits.images)
        strips = torch.stack([edits.images[:SHOWN], hidden[:SHOWN], images[:SHOWN].clamp(0, 1)], 1)
        write_captioned(strips.cpu().numpy(), edits.captions[:SHOWN], right.tolist(), 3, folder / "edits.png")
        kept = kept_outside(edits.images, images, edits.masks)
        return {
            f"{captioned.split}/edit_agreement": float(right.double().mean()),
            f"{captioned.split}/edit_outside_equal": float(kept.double().mean()),
        }


def kept_outside(
    before: Float[Tensor, "n c h w"], after: Float[Tensor, "n c h w"], masks: Bool[Tensor, "n h w"]
) -> Bool[Tensor, " n"]:
    """Whether every pixel outside of an image's mask is bit for bit what it was."""
    return ((before == after) | masks[:, None]).flatten(1).all(1)


def _sampled(
    generator: SamplesTexts, texts: list[str], draws: torch.Generator, scale: float
) -> Float[Tensor, "n c h w"]:
    """An image of each text, drawn in parts."""
    parts = iter(_slices(len(texts)))
    return in_parts(len(texts), lambda _: generator.sample_texts(texts[next(parts)], draws, scale))


def _slices(count: int) -> list[slice]:
    return [slice(start, start + BATCH_SIZE) for start in range(0, count, BATCH_SIZE)]
