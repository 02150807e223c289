"""Image tagging: which words the caption of an image has."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mlml import models, tagging
from mlml.config import Declared, EncoderConfig, ShiftFlipConfig, TrainConfig
from mlml.data.augment import shift_flip
from mlml.data.batches import Batch
from mlml.data.dataset import DataSpec
from mlml.initialisers import initialise
from mlml.method import Method, Output


class Tagger(Method):
    """An encoder and a linear layer with a sigmoid for each word of the vocabulary, trained on captions.

    The words of a caption are the labels of its image (Joulin et al. 2016, "Learning visual features from large weakly
    supervised data", arXiv:1511.02251, there without the weights by which rare words count as much as frequent ones):
    binary cross entropy in nats, mean over words and images. A word is found where its probability is above 1/2.

    Of the metrics, `exact_match` is the share of images whose words are found all, and no others; `word_f1` is F1 of
    the words of an image, mean over images. What tells captions apart must be their words: their order is lost. A word
    of every train caption tells nothing, and costs nothing.

    Raises:
        ValueError: the data has no captions.
    """

    measures = ("exact_match", "word_f1")
    targets = "captions"
    reads_labels = True

    class Config(Declared):
        """Numbers of the tagger.

        Attributes:
            augment: none as it stands, for captions may tell of left and right, or of places.
        """

        encoder: EncoderConfig
        train: TrainConfig
        augment: ShiftFlipConfig = ShiftFlipConfig(padding=0, flip_prob=0.0)

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if not spec.vocabulary:
            raise ValueError(
                f"tagger: the data must have captions; {spec.name!r} has none, or was prepared without words"
            )
        self.encoder = models.build(config.encoder, spec)
        self.feature_dim = self.encoder.feature_dim
        self.head = nn.Linear(self.feature_dim, len(spec.vocabulary))
        initialise(self.head, config.encoder.initialiser)

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        if not self.training:
            return batch
        return Batch(shift_flip(batch.images, self.config.augment, generator), batch.labels)

    def forward(self, batch: Batch, phase: str) -> Output:
        scores = self.word_scores(batch.images).float()  # (b, v)
        truth = tagging.word_sets(batch.labels, scores.shape[1])
        loss = F.binary_cross_entropy_with_logits(scores, truth.to(scores.dtype))
        found = scores > 0
        metrics = {"exact_match": tagging.same(truth, found).float(), "word_f1": tagging.f1(truth, found)}
        return Output(loss, {name: values.mean() for name, values in metrics.items()})

    def word_scores(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b v"]:
        """Log odds of each word of the vocabulary for images in [0, 1]."""
        scores: Tensor = self.head(self.encoder(images))
        return scores

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1], before the linear layer."""
        features: Tensor = self.encoder(images)
        return features
