import pytest
import torch

from mlml import tagging
from mlml.data.captions import tokenise, vocabulary

CAPTIONS = ["a red ring", "a red star on a ring", "blue", ""]
WORDS = vocabulary(CAPTIONS)


def sets(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_a_caption_is_the_set_of_its_words():
    assert WORDS == ("a", "red", "ring", "blue", "on", "star")
    tokens = torch.from_numpy(tokenise([*CAPTIONS, "red red unheard"], WORDS, 6))
    found = tagging.word_sets(tokens, len(WORDS))
    told = [{word for word, there in zip(WORDS, row, strict=True) if there} for row in found.tolist()]
    assert told == [{"a", "red", "ring"}, {"a", "red", "star", "on", "ring"}, {"blue"}, set(), {"red"}]


def test_agreement_of_sets_by_hand():
    truth = sets([1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0])
    found = sets([1, 1, 0, 0], [1, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0])
    assert tagging.same(truth, found).tolist() == [True, False, False, True, False]
    assert tagging.share_found(truth, found).tolist() == [1, 0.5, 1, 1, 1]
    assert tagging.f1(truth, found).tolist() == pytest.approx([1, 2 / 5, 2 / 3, 1, 0])
