import numpy as np
import pytest
import torch
from blobs import CAPTIONS
from specs import make_spec

from mlml.data.batches import Batch, split_batches
from mlml.data.captions import FIRST_WORD, PADDING, UNKNOWN, vocabulary
from mlml.method import Encodes, Scores, Tags
from mlml.supervised.tagger import Tagger

MLP = {"network": "mlp", "hidden_widths": [16]}
WORDS = vocabulary(CAPTIONS)


def tagger(**numbers):
    torch.manual_seed(0)
    spec = make_spec(mean=0.5, std=0.2).model_copy(update={"vocabulary": WORDS, "caption_length": 4})
    return Tagger(Tagger.Config.model_validate({"encoder": MLP, "train": {"steps": 1}, **numbers}), spec)


def told(method, scores):
    """Have it score so."""
    method.word_scores = lambda images: torch.tensor(scores)
    return method


def tokens(*captions):
    places = {word: FIRST_WORD + place for place, word in enumerate(WORDS)} | {"?": UNKNOWN, "-": PADDING}
    return torch.tensor([[places[word] for word in caption.split()] for caption in captions])


def test_the_loss_is_the_binary_cross_entropy_of_each_word():
    scores = np.random.default_rng(0).normal(size=(3, len(WORDS))).astype(np.float32)
    captions = ("bright at top left", "bottom ? right -", "- - - -")
    loss = 0.0
    for row, caption in zip(scores.astype(np.float64), captions, strict=True):
        for score, word in zip(row, WORDS, strict=True):
            probability = 1 / (1 + np.exp(-score))
            loss -= np.log(probability if word in caption.split() else 1 - probability)
    output = told(tagger(), scores)(Batch(torch.zeros(3, 1, 8, 8), tokens(*captions)), "train")
    assert output.loss.item() == pytest.approx(loss / scores.size, rel=1e-5)


def test_the_metrics_by_hand():
    """Words in the order of the vocabulary: at, bright, bottom, left, right, top."""
    assert WORDS == ("at", "bright", "bottom", "left", "right", "top")
    scores = [
        [1.0, 1.0, -1.0, 1.0, -1.0, 1.0],  # all four, and no others
        [1.0, 1.0, -1.0, 1.0, 1.0, 1.0],  # one too many: 2 * 4 / (4 + 5)
        [1.0, 1.0, -1.0, -0.1, -1.0, 1.0],  # one too few: 2 * 3 / (4 + 3)
        [-1.0, -1.0, 1.0, -1.0, -1.0, -1.0],  # none of them: 0
    ]
    output = told(tagger(), scores)(Batch(torch.zeros(4, 1, 8, 8), tokens(*["bright at top left"] * 4)), "train")
    assert output.metrics["exact_match"].item() == pytest.approx(1 / 4)
    assert output.metrics["word_f1"].item() == pytest.approx((1 + 8 / 9 + 6 / 7 + 0) / 4)
    assert set(output.metrics) == set(Tagger.measures)


def test_it_learns_the_words_of_blobs(blob_data):
    train = split_batches(blob_data, "train", 32, 0, torch.device("cpu"), "captions")
    method = tagger()
    optimizer = torch.optim.Adam(method.parameters(), 0.02)
    for step in range(60):
        optimizer.zero_grad()
        method(method.augment(train(step), torch.Generator().manual_seed(step)), "train").loss.backward()
        optimizer.step()
    test = split_batches(blob_data, "test", "full", 0, torch.device("cpu"), "captions")(0)
    assert method.eval()(test, "test").metrics["exact_match"] == 1
    assert isinstance(method, Tags)
    assert isinstance(method, Encodes)
    assert not isinstance(method, Scores)  # of classes, which it does not know
    assert method.encode(test.images).shape == (24, method.feature_dim)


def test_images_stay_where_captions_say_unless_declared():
    batch = Batch(torch.rand(8, 1, 8, 8), torch.zeros(8, 4, dtype=torch.long))
    assert torch.equal(tagger().augment(batch, torch.Generator()).images, batch.images)
    moved = tagger(augment={"padding": 2}).augment(batch, torch.Generator())
    assert not torch.equal(moved.images, batch.images)
    assert moved.labels is batch.labels


def test_data_without_captions_is_refused():
    with pytest.raises(ValueError, match="tagger: the data must have captions; 'made' has none"):
        Tagger(tagger().config, make_spec())
