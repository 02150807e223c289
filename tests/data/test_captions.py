import json

import numpy as np
import pytest
import torch

from mlml import catalogue
from mlml.data.batches import split_batches
from mlml.data.captions import MAX_LENGTH, longest, tokenise, vocabulary, words
from mlml.data.dataset import SPLITS, DataSpec, PreparedData, Split
from mlml.data.prepare import prepare


def test_words_are_in_lower_case_and_without_punctuation():
    assert words("A red, ÉTOILE; on-the left!") == ["a", "red", "étoile", "on", "the", "left"]


def test_the_vocabulary_is_by_frequency_and_then_by_the_alphabet():
    assert vocabulary(["b a", "b c", "b a z"]) == ("b", "a", "c", "z")
    assert vocabulary([]) == ()


def test_tokens_are_padded_cut_and_unknown_where_they_must_be():
    tokens = tokenise(["a b", "", "b x a b"], ("a", "b"), 3)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [[2, 3, 0], [0, 0, 0], [3, 1, 2]]


@pytest.mark.parametrize(("captions", "length"), [(["a b", "a"], 2), ([""], 1), ([], 1), (["a " * 999], MAX_LENGTH)])
def test_the_longest_caption_counts(captions, length):
    assert longest(captions) == length


def test_prepared_captions_come_with_their_words(tmp_path):
    config = catalogue.config_class("data/sources", "shapes")(count=80, size=16)
    spec = prepare("shapes", config, "shapes", 0.2, 0.2, tmp_path / "shapes")
    data = PreparedData(tmp_path / "shapes")
    assert data.spec == spec
    train = data.split("train").captions
    assert set(spec.vocabulary) == {word for caption in train for word in words(caption)}
    assert spec.caption_length == max(len(words(caption)) for caption in train) == 8
    for name in SPLITS:
        split = data.split(name)
        assert np.array_equal(split.targets("captions"), tokenise(split.captions, spec.vocabulary, 8))
    batch = split_batches(data, "test", 4, 0, torch.device("cpu"), "captions").at(torch.tensor([1]))
    read = [spec.vocabulary[token - 2] for token in batch.labels[0].tolist() if token > 1]
    known = [word for word in words(data.split("test").captions[1]) if word in spec.vocabulary]
    assert read == known


def test_data_without_captions_is_written_as_it_was_before_there_were_words(tmp_path):
    prepare("digits", catalogue.config_class("data/sources", "digits")(), "digits", 0.1, 0.2, tmp_path / "digits")
    content = json.loads((tmp_path / "digits" / "spec.json").read_text())
    assert not {"vocabulary", "caption_length"} & set(content)
    spec = DataSpec.model_validate(content)
    assert (spec.vocabulary, spec.caption_length) == ((), 0)
    again = spec.model_copy(update={"vocabulary": ("a", "b"), "caption_length": 3})
    assert DataSpec.model_validate(again.model_dump(mode="json")) == again


def test_no_captions_are_no_targets():
    assert Split(np.zeros((2, 1, 3, 3), np.uint8), np.array([0, 1]), None).targets("captions") is None
