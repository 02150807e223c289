import pytest
import torch
from blobs import CAPTIONS
from specs import make_spec

from mlml import model_folder
from mlml.data.batches import Batch

DENOISER = {"width": 8, "multipliers": [1, 2], "num_blocks": 1, "attention_resolutions": [4], "num_groups": 4}
CONFIG = {
    "train": {"steps": 1},
    "denoiser": {**DENOISER, "dropout_prob": 0.0},
    "text": {"dim": 8, "depth": 1, "num_heads": 2},
    "timesteps": 30,
    "sampler": {"name": "ddim", "steps": 4},
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def glide(blob_data):
    """Build it with all weights drawn, those that begin with 0 too."""

    def build(**numbers):
        torch.manual_seed(0)
        method = model_folder.build("generative", "glide", {**CONFIG, **numbers}, blob_data.spec).eval()
        for parameter in method.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return method

    return build


def images(count=4):
    return torch.rand(count, 1, 8, 8, generator=seeded(5))


def test_an_edit_is_new_inside_the_mask_and_bit_for_bit_the_same_outside(glide):
    given, masks = images(), torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[0], masks[1, 2:6, 3:], masks[2, 0, 0] = True, True, True
    edited = glide().edit(given, masks, CAPTIONS, seeded())
    inside = masks[:, None]
    assert torch.equal(edited[~inside], given[~inside])
    assert torch.equal(edited[3], given[3])
    assert (edited[inside] != given[inside]).float().mean() > 0.9
    assert edited.min() >= 0
    assert edited.max() <= 1


def test_what_is_erased_is_not_seen(glide):
    """Neither the samples nor the predictions depend on pixels under the mask."""
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    given = images()
    hidden = torch.where(masks[:, None], 0.123, given)
    method = glide()
    edits = [method.edit(each, masks, CAPTIONS, seeded()) for each in (given, hidden)]
    assert torch.equal(edits[0][masks[:, None]], edits[1][masks[:, None]])
    seen = torch.where(masks[:, None], given, 0.123)
    assert not torch.allclose(method.edit(seen, masks, CAPTIONS, seeded())[masks[:, None]], edits[0][masks[:, None]])


def test_texts_matter_the_more_the_larger_the_scale(glide):
    method = glide()
    one, same, other = (method.sample_texts(texts, seeded(), 3.0) for texts in (CAPTIONS, CAPTIONS, CAPTIONS[::-1]))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    forgotten = [method.sample_texts(texts, seeded(), 0.0) for texts in (CAPTIONS, CAPTIONS[::-1])]
    assert torch.equal(*forgotten)
    torch.testing.assert_close(method.sample(4, seeded()), forgotten[0], atol=1e-3, rtol=1e-3)
    assert torch.equal(method.sample_texts(CAPTIONS, seeded()), one)  # 3 is the declared scale


def test_edits_take_a_scale_as_samples_do(glide):
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    method = glide()
    declared, same, larger = (method.edit(images(), masks, CAPTIONS, seeded(), scale) for scale in (None, 3.0, 6.0))
    assert torch.equal(declared, same)
    assert not torch.allclose(declared, larger)


def test_a_share_has_a_block_erased_and_the_others_everything(glide):
    method = glide(edit_prob=0.3, erased_area=0.25, drop_prob=0.2).train()
    batch = Batch(images(1000), torch.full((1000, 4), 3))
    made = method.augment(batch, seeded())
    erased = made.erased.flatten(1).mean(1)
    edited = erased < 1
    assert edited.float().mean().item() == pytest.approx(0.3, abs=0.06)
    assert erased[edited].max() <= 0.25
    assert erased.min() > 0
    dropped = (made.tokens == 0).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.06)
    assert torch.equal(made.tokens[~dropped], batch.labels[~dropped])
    assert not torch.equal(dropped, edited)
    assert torch.equal(method.eval().augment(batch, seeded()).tokens, batch.labels)


def test_a_range_of_weights_reaches_the_loss(glide):
    plain, ranged = (glide(snr_range=bounds).process.loss_weights for bounds in (None, [1, 5]))
    assert plain.unique().tolist() == [1]
    assert not torch.allclose(ranged, plain)
    with pytest.raises(ValueError, match=r"must be a lower and a higher number; got \[5.0, 1.0\]"):
        glide(snr_range=[5, 1])


def test_unknown_words_are_refused(glide):
    with pytest.raises(ValueError, match="no train caption has: dark"):
        glide().sample_texts(["dark at top left"], seeded())


def test_data_without_captions_is_refused():
    with pytest.raises(ValueError, match="glide: the data must have captions; 'made' has none"):
        model_folder.build("generative", "glide", CONFIG, make_spec())
