"""Text agreement with made-up generators and a tagger whose answers are known."""

import json

import numpy as np
import pytest
import torch
from blobs import CAPTIONS, write_prepared
from torch import nn

from mlml.evaluations import text_agreement
from mlml.evaluations._subject import EvaluationError
from mlml.evaluations._texts import Captioned, Tagger
from mlml.evaluations.text_agreement import TextAgreement, kept_outside

CPU = torch.device("cpu")
LARGE = {"edit_margin": 4}
"""Of images of 8 pixels: the whole image is painted anew, so that every caption fits."""


class Reads(nn.Module):
    """Finds the words of the caption of the bright quadrant."""

    def __init__(self, vocabulary):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.rows = torch.tensor([[1.0 if word in text.split() else -1.0 for word in vocabulary] for text in CAPTIONS])

    def word_scores(self, images):
        quadrants = images.mean(1).unflatten(1, (2, 4)).unflatten(3, (2, 4)).mean((2, 4)).flatten(1)  # (b, 4)
        return self.weight * self.rows[quadrants.argmax(1)]


def drawn(text):
    """An image of a caption."""
    image = torch.zeros(1, 8, 8)
    row, column = divmod(CAPTIONS.index(text), 2)
    image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 0.8
    return image


class Errs(nn.Module):
    """Draws what is asked, but every k-th image as if another caption had been; k is told for each scale."""

    def __init__(self, wrong_every):
        super().__init__()
        self.wrong_every, self.texts, self.count = wrong_every, [], 0

    def sample_texts(self, texts, generator, guidance_scale=None):
        self.texts += [(guidance_scale, text) for text in texts]
        images = []
        for text in texts:
            self.count += 1
            wrong = self.count % self.wrong_every[guidance_scale] == 0
            images.append(drawn(CAPTIONS[(CAPTIONS.index(text) + 1) % 4] if wrong else text))
        return torch.stack(images)


class Edits(Errs):
    """Paints as it draws; a cheat also changes a pixel outside of the mask by the least that there is."""

    def __init__(self, wrong_every, cheats_every=None):
        super().__init__(wrong_every)
        self.cheats_every, self.edited, self.scales = cheats_every, [], []

    def edit(self, images, masks, texts, generator, guidance_scale=None):
        self.edited += texts
        self.scales.append(guidance_scale)
        edited = torch.where(masks[:, None], self.sample_texts(texts, generator, guidance_scale), images)
        for place in range(len(images)):
            outside = (~masks[place]).nonzero()
            if self.cheats_every and place % self.cheats_every == 0 and len(outside):
                row, column = outside[0]
                edited[place, 0, row, column] = torch.nextafter(edited[place, 0, row, column], torch.tensor(2.0))
        return edited


@pytest.fixture
def captioned(blob_data):
    return Captioned(blob_data, Tagger("reads", Reads(blob_data.spec.vocabulary), "abcdef0123"), CPU)


def evaluation(**numbers):
    return TextAgreement(TextAgreement.Config(generator="g", extractor="e", **numbers))


def test_it_measures_what_its_class_says(captioned, tmp_path):
    method = evaluation(**LARGE)
    every = {1.0: 10**6, 2.0: 10**6, 4.0: 10**6}
    one, same = (method.evaluate(Edits(every), captioned, 0, tmp_path) for _ in range(2))
    told = {*method.measures, *(name for _, name in method.measures_if_offered)}
    full = {"test/text_agreement_reads-abcdef_n24"}
    assert {name for name in one if name.startswith("test/")} == {f"test/{name}" for name in told} | full
    assert all(one[name] == 1 for name in one if not name.startswith("system/"))
    assert {name: one[name] for name in one if name[:4] == "test"} == {n: same[n] for n in same if n[:4] == "test"}
    assert {path.name for path in tmp_path.glob("*.png")} == {"edits.png", "guidance.png", "samples.png", "words.png"}
    plain = method.evaluate(Errs(every), captioned, 0, tmp_path)
    assert {name for name in plain if name.startswith("test/")} == {f"test/{name}" for name in method.measures} | full


@pytest.mark.parametrize(("every", "share"), [(1, 0.0), (2, 0.5), (4, 0.75), (3, 2 / 3)])
def test_agreement_is_the_share_that_came_as_asked(captioned, tmp_path, every, share):
    found = evaluation(guidance_scales=[2.0]).evaluate(Errs({2.0: every}), captioned, 0, tmp_path)
    assert found["test/text_agreement"] == pytest.approx(share)
    assert found["test/text_agreement_reads-abcdef_n24"] == found["test/text_agreement"]
    assert found["floor/text_agreement"] == found["floor/word_accuracy"] == 1
    if every == 1:  # of (bright, at, row, column) three words of the next caption, but from 1 to 2 and from 3 to 0 two
        assert found["test/word_accuracy"] == pytest.approx((3 + 2 + 3 + 2) / 16)
    assert found["test/guidance_scale"] == 2
    assert not list(tmp_path.glob("guidance.png"))  # nothing was chosen


def test_the_floor_is_what_the_tagger_finds_in_real_images(blob_data, tmp_path):
    folder = blob_data.folder / "test"
    captions = json.loads((folder / "captions.json").read_text())
    captions[:6] = [
        CAPTIONS[(CAPTIONS.index(text) + 1) % 4] for text in captions[:6]
    ]  # a quarter says what is not there
    (folder / "captions.json").write_text(json.dumps(captions))
    captioned = Captioned(blob_data, Tagger("reads", Reads(blob_data.spec.vocabulary), "abcdef0123"), CPU)
    found = evaluation(guidance_scales=[1.0]).evaluate(Errs({1.0: 10**6}), captioned, 0, tmp_path)
    assert found["floor/text_agreement"] == 0.75
    assert found["test/text_agreement"] == 1


def test_the_scale_is_chosen_on_validation(captioned, tmp_path, monkeypatch):
    """By the agreement with captions of validation, the lowest of equals; test has no say."""
    asked = []
    monkeypatch.setattr(
        captioned,
        "asked",
        lambda split, count: asked.append((split, count)) or Captioned.asked(captioned, split, count),
    )
    generator = Errs({1.0: 2, 2.0: 4, 4.0: 4, 8.0: 3})
    method = evaluation(guidance_scales=[1.0, 2.0, 4.0, 8.0], num_tried=12, num_asked=8)
    found = method.evaluate(generator, captioned, 0, tmp_path)
    assert found["test/guidance_scale"] == 2
    tried = {name: value for name, value in found.items() if name.startswith("validation/")}
    names = ("1", "2", "4", "8")
    expected = dict(zip(names, (1 / 2, 3 / 4, 3 / 4, 2 / 3), strict=True))
    assert tried == {f"validation/text_agreement_at_{name}": pytest.approx(expected[name]) for name in names}
    assert asked == [("validation", 12), ("test", 8)]
    assert [scale for scale, _ in generator.texts] == [1.0] * 12 + [2.0] * 12 + [4.0] * 12 + [8.0] * 12 + [2.0] * 8
    assert (tmp_path / "guidance.png").is_file()


def test_what_is_chosen_by_reads_nothing_of_test(blob_data, captioned, tmp_path):
    for name in ("images.npy", "labels.npy", "masks.npy", "captions.json"):
        (blob_data.folder / "test" / name).unlink()
    seen = Captioned(blob_data, captioned.tagger, CPU, "validation")
    method, generator = evaluation(num_asked=8, num_tried=12, num_edits=6, **LARGE), Edits({1.0: 2, 2.0: 4, 4.0: 3})
    found = method.evaluate(generator, seen, 0, tmp_path)
    told = {*method.measures, *(name for _, name in method.measures_if_offered)}
    tried = {f"text_agreement_at_{scale}" for scale in (1, 2, 4)}
    full = "text_agreement_reads-abcdef_n8"
    assert {name for name in found if not name.startswith(("floor/", "system/"))} == {
        f"validation/{name}" for name in told | tried | {full}
    }
    assert found["validation/text_agreement"] == found[f"validation/{full}"] == 3 / 4
    assert generator.texts[-14][1] == seen.asked("validation", 8).captions[0]


def test_captions_are_asked_evenly_and_only_those_that_can_be(blob_data):
    folder = blob_data.folder / "test"
    captions = [CAPTIONS[0]] * 24
    captions[1], captions[2], captions[3] = "dark at top left", "", "bright bright bright bright bright"
    captions[13] = CAPTIONS[3]
    (folder / "captions.json").write_text(json.dumps(captions))
    captioned = Captioned(blob_data, Tagger("reads", Reads(blob_data.spec.vocabulary), "abcdef0123"), CPU)
    asked = captioned.asked("test", 100)
    assert len(asked.captions) == 21
    assert set(asked.captions) == {CAPTIONS[0], CAPTIONS[3]}
    images = torch.from_numpy(np.array(blob_data.split("test").images[[0, 4, 13]])) / 255
    torch.testing.assert_close(asked.images[[0, 1, 10]], images)
    assert captioned.asked("test", 7).captions == asked.captions[::3]
    assert asked.words[10].tolist() == [word in CAPTIONS[3].split() for word in blob_data.spec.vocabulary]
    (folder / "captions.json").write_text(json.dumps(["dark"] * 24))
    with pytest.raises(EvaluationError, match="no caption of test has only words that train captions have"):
        captioned.asked("test", 1)


def test_edits_are_judged_by_what_was_asked(captioned, tmp_path):
    generator = Edits({2.0: 3})
    found = evaluation(guidance_scales=[2.0], num_asked=24, num_edits=24, **LARGE).evaluate(
        generator, captioned, 0, tmp_path
    )
    assert found["test/edit_agreement"] == pytest.approx(2 / 3)
    assert found["test/edit_outside_equal"] == 1
    assert generator.scales == [2.0]


def test_an_edit_that_returns_the_image_is_found_out(captioned, tmp_path):
    generator = Edits({2.0: 10**6})
    generator.edit = lambda images, masks, texts, draws, scale: images.clone()
    found = evaluation(guidance_scales=[2.0], **LARGE).evaluate(generator, captioned, 0, tmp_path)
    assert found["test/edit_agreement"] == 0


def test_a_change_outside_of_the_mask_is_found_out(blob_data, tmp_path):
    """By one pixel, in its last bit."""
    (blob_data.folder / "test" / "masks.npy").unlink()
    captioned = Captioned(blob_data, Tagger("reads", Reads(blob_data.spec.vocabulary), "abcdef0123"), CPU)
    assert captioned.edits(24, 0).masks.sum((1, 2)).tolist() == [36] * 24  # all but a border of a pixel
    honest, cheat = (
        evaluation(guidance_scales=[1.0], num_edits=24).evaluate(Edits({1.0: 10**6}, every), captioned, 0, tmp_path)
        for every in (None, 3)
    )
    assert honest["test/edit_outside_equal"] == 1
    assert cheat["test/edit_outside_equal"] == pytest.approx(2 / 3)
    before, mask = torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    after, mask[:, 1:, 1:] = before.clone(), True
    after[0, 2, 1, 1], after[1, 2, 0, 3] = 2.0, 2.0
    assert kept_outside(before, after, mask).tolist() == [True, False]


def test_what_is_asked_of_an_edit_has_room_in_what_is_painted(tmp_path):
    """The box of what is no background, wider by the margin; the caption of an image whose own lies inside it."""
    data = write_prepared(tmp_path / "blobs")
    masks = np.zeros((24, 8, 8), np.uint8)
    masks[0, 2:5, 3:6] = 2
    masks[1, 2:4, 4:6] = 1  # inside that of 0, of another caption
    masks[4, 3:4, 3:4] = 1  # inside it, too, but of the same caption as 0
    masks[2, 0:3, 3:6] = 1  # a pixel above it
    np.save(data.folder / "test" / "masks.npy", masks)
    captioned = Captioned(data, Tagger("reads", Reads(data.spec.vocabulary), "abcdef0123"), CPU)
    shown = torch.from_numpy(np.array(data.split("test").images)) / 255

    edits = captioned.edits(24, 0)
    assert edits.captions == [CAPTIONS[1]]
    assert torch.equal(edits.images, shown[:1])
    assert torch.equal(edits.masks[0].nonzero(), torch.from_numpy(masks[0]).nonzero())
    assert edits.words[0].tolist() == [word in CAPTIONS[1].split() for word in data.spec.vocabulary]

    wider = captioned.edits(24, 2)
    assert wider.masks[0].nonzero().aminmax(dim=0).min.tolist() == [0, 1]
    assert wider.masks[0].nonzero().aminmax(dim=0).max.tolist() == [6, 7]  # cut at the right edge
    again = captioned.edits(24, 2)
    assert wider.captions == again.captions
    np.save(data.folder / "test" / "masks.npy", np.zeros((24, 8, 8), np.uint8))
    with pytest.raises(EvaluationError, match=r"no image of test has a region .* raise 'edit_margin'"):
        captioned.edits(24, 2)


def test_strangers_are_refused(captioned, blob_data, tmp_path):
    with pytest.raises(EvaluationError, match="Reads has no 'sample_texts', so there is nothing to ask it"):
        evaluation().evaluate(Reads(blob_data.spec.vocabulary), captioned, 0, tmp_path)
    with pytest.raises(EvaluationError, match=r"extractor 'g': Errs must have 'word_scores'"):
        Tagger("g", Errs({}), "abc")
    bare = write_prepared(tmp_path / "bare", labelled=False)
    with pytest.raises(EvaluationError, match="data set 'bare' has no captions"):
        Captioned(bare, captioned.tagger, CPU)


def test_pictures_show_every_caption_and_what_failed(monkeypatch, captioned, tmp_path):
    written = []
    monkeypatch.setattr(
        text_agreement, "write_captioned", lambda strips, *told: written.append((strips.shape, *told[:2]))
    )
    evaluation(guidance_scales=[1.0], num_edits=5, **LARGE).evaluate(Edits({1.0: 4}), captioned, 0, tmp_path)
    (shape, captions, right), (edit_shape, edit_captions, _) = written
    assert shape == (24, 1, 1, 8, 8)
    assert captions == CAPTIONS * 6 or captions == list(CAPTIONS) * 6
    assert right == [True, True, True, False] * 6
    assert edit_shape == (5, 3, 1, 8, 8)
    assert len(edit_captions) == 5
