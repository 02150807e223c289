"""What an evaluation of texts has at hand: a frozen tagger, captions to ask for, and edits that can be asked for.

Notation: n captions or images, v words of the vocabulary. A set of words is a row of (n, v): `mlml.tagging`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from mlml import tagging
from mlml.data import captions
from mlml.data.batches import split_batches
from mlml.data.dataset import PreparedData
from mlml.evaluations._subject import BATCH_SIZE, EvaluationError
from mlml.figures_diffusion import middle
from mlml.method import Method, Tags
from mlml.seeds import derive


class Tagger:
    """A trained tagger, frozen, in eval mode.

    Args:
        name: of the experiment.
        method: the trained one.
        digest: sha256 of its weights, which `label` begins to tell.

    Raises:
        EvaluationError: it tells nothing of words.
    """

    def __init__(self, name: str, method: Method, digest: str) -> None:
        if not isinstance(method, Tags):
            raise EvaluationError(
                f"extractor {name!r}: {type(method).__name__} must have 'word_scores'; take a tagger of these captions"
            )
        self.label = f"{name}-{digest[:6]}"
        self._method = method.eval().requires_grad_(False)

    @torch.no_grad()
    def words(self, images: Float[Tensor, "n c h w"]) -> Bool[Tensor, "n v"]:
        """Words that it finds in images in [0, 1]."""
        assert isinstance(self._method, Tags)
        return torch.cat([self._method.word_scores(part) > 0 for part in torch.split(images, BATCH_SIZE)])


class Asked(NamedTuple):
    """Captions of a split, and the images that they are of."""

    captions: list[str]
    words: Bool[Tensor, "n v"]
    images: Float[Tensor, "n c h w"]


class Edits(NamedTuple):
    """Images, what is to be painted anew of each, and what that is to show."""

    images: Float[Tensor, "n c h w"]
    masks: Bool[Tensor, "n h w"]  # true: paint
    captions: list[str]
    words: Bool[Tensor, "n v"]


class Captioned:
    """Captioned images, and a tagger that reads them.

    Captions without words, with a word that no train caption has, or with more words than any of those are left out: a
    generator knows no such.

    Attributes:
        split: "test", or "validation" where something is chosen by what is measured.

    Raises:
        EvaluationError: the data has no captions.
    """

    def __init__(self, data: PreparedData, tagger: Tagger, device: torch.device, split: str = "test") -> None:
        if not data.spec.vocabulary:
            raise EvaluationError(f"data set {data.spec.name!r} has no captions, so there is nothing to ask for")
        self.tagger, self.device, self.vocabulary, self.split = tagger, device, data.spec.vocabulary, split
        self._data = data

    def asked(self, split: str, count: int) -> Asked:
        """So many captions at equal distances over a split, or all where there are fewer.

        Raises:
            EvaluationError: none can be asked for.
        """
        known = self._known(split)
        count = min(count, len(known))
        places = known[np.arange(count) * len(known) // max(count, 1)]
        texts = self._texts(split, places)
        return Asked(texts, self._words(texts), self._images(split, places))

    def edits(self, count: int, margin: int) -> Edits:
        """So many edits of images of the split, or all that there are; the same for every seed and generator.

        Where the data has masks, what is painted anew is the box of all that is no background, `margin` pixels wider
        on each side, and the caption is of an image whose own such box lies inside it, so that what is asked for has
        room there, at the place that it names. Elsewhere it is all but a border of an eighth of each side, and the
        caption is any other image's. The caption always differs from the image's own by a word.

        Args:
            count: of the edits.
            margin: in pixels; cut at the edge of the image.

        Raises:
            EvaluationError: no image has a caption that fits.
        """
        known = self._known(self.split)
        words = self._words(self._texts(self.split, known)).cpu().numpy()
        kinds = np.unique(words, axis=0, return_inverse=True)[1].ravel()  # (m,), equal where the sets are
        boxes = self._boxes(known)
        draws = np.random.default_rng(derive("evaluation", "edits"))
        chosen: list[tuple[int, int]] = []  # rows of `known`: the image, and the one whose caption is asked for
        for row in draws.permutation(len(known)):
            if len(chosen) == count:
                break
            others = kinds != kinds[row]
            if boxes is not None:
                others &= _inside(boxes, _grown(boxes[row], margin)) & (boxes[row, 1] > boxes[row, 0]).all()
            if others.any():
                chosen.append((int(row), int(draws.choice(np.flatnonzero(others)))))
        if not chosen:
            raise EvaluationError(
                f"edits: no image of {self.split} has a region that another caption's image fits in; "
                "raise 'edit_margin'"
            )
        rows, partners = (np.array(side) for side in zip(*sorted(chosen), strict=True))
        images, texts = self._images(self.split, known[rows]), self._texts(self.split, known[partners])
        if boxes is None:
            return Edits(images, middle(images), texts, self._words(texts))
        masks = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=self.device)
        for mask, box in zip(masks, boxes[rows], strict=True):
            (top, left), (bottom, right) = _grown(box, margin).clip(min=0)
            mask[top:bottom, left:right] = True
        return Edits(images, masks, texts, self._words(texts))

    def _known(self, split: str) -> NDArray[np.int64]:
        """Places of the captions that can be asked for."""
        known, longest = set(self.vocabulary), self._data.spec.caption_length
        told = [captions.words(text) for text in self._data.split(split).captions or []]
        found = [place for place, words in enumerate(told) if 0 < len(words) <= longest and known.issuperset(words)]
        if not found:
            raise EvaluationError(f"no caption of {split} has only words that train captions have")
        return np.array(found)

    def _texts(self, split: str, places: NDArray[np.int64]) -> list[str]:
        texts = self._data.split(split).captions or []
        return [texts[place] for place in places]

    def _words(self, texts: Sequence[str]) -> Bool[Tensor, "n v"]:
        tokens = captions.tokenise(texts, self.vocabulary, self._data.spec.caption_length)
        return tagging.word_sets(torch.from_numpy(tokens).to(self.device), len(self.vocabulary))

    def _images(self, split: str, places: NDArray[np.int64]) -> Float[Tensor, "n c h w"]:
        batches = split_batches(self._data, split, BATCH_SIZE, 0, self.device)
        found: Tensor = batches.at(torch.from_numpy(places)).images
        return found

    def _boxes(self, places: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Boxes of what is no background, (m, 2, 2): (top, left), (bottom, right), the end excluded; 0 of nothing."""
        masks = self._data.split(self.split).masks
        if masks is None:
            return None
        shown: NDArray[np.bool_] = np.greater(masks[places], 0)  # (m, h, w)
        sides = []
        for axis in (2, 1):  # rows that show something, then columns
            some: NDArray[np.bool_] = np.any(shown, axis)  # (m, side)
            start, end = some.argmax(1), some.shape[1] - some[:, ::-1].argmax(1)
            sides.append(np.stack([start, end], 1) * np.any(some, 1, keepdims=True))
        boxes: NDArray[np.int64] = np.stack(sides, 2)
        return boxes


def _grown(box: NDArray[np.int64], margin: int) -> NDArray[np.int64]:
    grown: NDArray[np.int64] = box + np.array([[-margin], [margin]])
    return grown


def _inside(boxes: NDArray[np.int64], region: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the boxes, (m, 2, 2), show something and lie in a region, (2, 2)."""
    lies = (boxes[:, 0] >= region[0]) & (boxes[:, 1] <= region[1]) & (boxes[:, 1] > boxes[:, 0])
    within: NDArray[np.bool_] = lies.all(1)
    return within
