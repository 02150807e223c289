import math

import numpy as np
import pytest
import torch
from specs import make_spec

from mlml import model_folder
from mlml.config import DeclarationError
from mlml.data.batches import Batch
from mlml.declaration import resolve
from mlml.layers.patches import patchify, unpatchify
from mlml.pretext.mae import GREY, Masked

VIT = {"network": "vit", "patch_size": 4, "dim": 16, "depth": 2, "num_heads": 2}
IMAGES = torch.rand(3, 2, 8, 16, generator=torch.Generator().manual_seed(1))  # 8 patches, of 32 numbers


def mae(vit=None, spec=None, **numbers):
    torch.manual_seed(0)
    config = {"encoder": {**VIT, **(vit or {})}, "train": {"steps": 1}, **numbers}
    return model_folder.build("pretext", "mae", config, spec or make_spec(2, 8, 16, mean=0.3, std=0.2)).eval()


def moments(patch):
    return patch.mean(), math.sqrt(patch.var(ddof=1) + 1e-6)


def orders(method, count=3, seed=5):
    return method.draw_order(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_masked_patches_do_not_reach_the_features_bit_for_bit(pooling):
    method = mae({"pooling": pooling})
    order = orders(method)
    hidden = torch.zeros(3, 8, dtype=torch.bool).scatter(1, order[:, method.num_visible :], True)
    patches = patchify(IMAGES, 4)
    other = unpatchify(torch.where(hidden[..., None], torch.rand_like(patches), patches), (2, 4), 4)
    assert not torch.equal(other, IMAGES)
    assert torch.equal(method.latents(other, order), method.latents(IMAGES, order))
    assert torch.equal(method.predict(other, order), method.predict(IMAGES, order))
    moved = unpatchify(torch.where(hidden[..., None], patches, torch.rand_like(patches)), (2, 4), 4)
    assert not torch.equal(method.latents(moved, order), method.latents(IMAGES, order))


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_the_encoder_runs_on_the_visible_patches_alone(pooling):
    """One image by itself, its visible tokens picked by hand, through the encoder's own blocks."""
    method = mae({"pooling": pooling})
    order, encoder = orders(method), method.encoder
    k = encoder.num_class_tokens
    for b in range(3):
        tokens = [encoder.class_token[0, 0] + encoder.positions[0, 0]] if k else []
        for n in order[b, :2].tolist():
            row, column = divmod(n, 4)
            patch = encoder.normalize(IMAGES[b : b + 1])[0, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            embedded = encoder.patches.weight.flatten(1) @ patch.flatten() + encoder.patches.bias
            tokens.append(embedded + encoder.positions[0, k + n])
        expected = encoder.blocks(torch.stack(tokens)[None])[0]
        torch.testing.assert_close(method.latents(IMAGES, order)[b], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_the_decoder_has_each_patch_at_its_own_place(pooling):
    method = mae({"pooling": pooling})
    order, k = orders(method), method.encoder.num_class_tokens
    seen = method.to_decoder(method.latents(IMAGES, order))
    for b in range(3):
        tokens = [method.mask_token[0, 0]] * 8
        for place, n in enumerate(order[b, :2].tolist()):
            tokens[n] = seen[b, k + place]
        tokens = torch.stack([*seen[b, :k], *tokens]) + method.positions[0]
        expected = method.to_pixels(method.decoder(tokens[None])[0, k:])
        torch.testing.assert_close(method.predict(IMAGES, order)[b], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("normalise", [False, True])
def test_the_loss_is_that_of_the_masked_patches(normalise):
    method = mae(normalise_targets=normalise)
    order = orders(method)
    with torch.no_grad():
        predicted = method.predict(IMAGES, order).double().numpy()
        loss = method(Masked(IMAGES, order), "train").loss
    total = 0.0
    for b in range(3):
        for n in order[b, 2:].tolist():
            row, column = divmod(n, 4)
            patch = IMAGES[b, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].double().numpy()
            patch = patch.transpose(1, 2, 0).ravel()
            mean, deviation = moments(patch) if normalise else (0.3, 0.2)
            target = (patch - mean) / deviation
            total += ((predicted[b, n] - target) ** 2).mean() / 18
    assert float(loss) == pytest.approx(total, rel=1e-5)


def test_a_quarter_is_visible_and_every_patch_as_often_as_another():
    method = mae()
    order = orders(method, 4000)
    assert method.num_visible == 2
    assert torch.equal(order.sort(1).values, torch.arange(8).expand(4000, 8))
    shares = np.bincount(order[:, :2].flatten().numpy(), minlength=8) / 4000
    assert np.abs(shares - 0.25).max() < 5 * math.sqrt(0.25 * 0.75 / 4000)


@pytest.mark.parametrize("normalise", [False, True])
def test_the_sheet_fills_the_masked_patches_alone(normalise):
    method = mae(normalise_targets=normalise)
    with torch.no_grad():
        sheet = method.illustrate(IMAGES, torch.Generator().manual_seed(5))
        predicted = method.predict(IMAGES, orders(method)).numpy()
    assert list(sheet) == ["masked", "filled", "truth"]
    assert torch.equal(sheet["truth"], IMAGES)
    order = orders(method)
    for b, place in np.ndindex(3, 8):
        n = int(order[b, place])
        row, column = divmod(n, 4)
        at = (b, slice(None), slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
        if place < 2:
            assert torch.equal(sheet["masked"][at], IMAGES[at])
            assert torch.equal(sheet["filled"][at], IMAGES[at])
            continue
        assert (sheet["masked"][at] == GREY).all()
        patch = IMAGES[at].numpy()
        pixels = predicted[b, n].reshape(4, 4, 2).transpose(2, 0, 1)
        mean, deviation = moments(patch) if normalise else (0.3, 0.2)
        pixels = pixels * deviation + mean
        np.testing.assert_allclose(sheet["filled"][at].numpy(), pixels.clip(0, 1), atol=1e-5)


def test_fixed_positions_are_in_no_phase_and_learnt_ones_are():
    fixed, learnt = mae({"pooling": "class_token"}), mae(learnt_positions=True)
    for method, owned in ((fixed, False), (learnt, True)):
        named = {id(parameter) for parameter in method.phase_parameters("train")}
        assert (id(method.encoder.positions) in named) == owned
        assert len(named) == len(list(method.parameters())) - (not owned)
    assert torch.equal(fixed.encoder.positions[0, 0], torch.zeros(16))  # of the class token
    assert fixed.encoder.positions[0, 2].tolist()[:8] == pytest.approx(
        [math.sin(1 / 10**k) for k in range(4)] + [math.cos(1 / 10**k) for k in range(4)]
    )
    assert float(learnt.encoder.positions.detach().std()) == pytest.approx(0.02, rel=0.3)


def test_the_decoder_is_by_default_as_the_papers_beside_its_encoder():
    method = mae({"dim": 32, "depth": 9})
    assert (len(method.decoder.layers), method.to_decoder.out_features) == (3, 16)
    method = mae(decoder_dim=8, decoder_depth=2)
    assert (len(method.decoder.layers), method.to_decoder.out_features) == (2, 8)


def test_evaluation_masks_whole_images():
    method = mae()
    batch = method.augment(Batch(IMAGES, torch.zeros(3)), torch.Generator().manual_seed(0))
    assert torch.equal(batch.images, IMAGES)
    trained = method.train().augment(Batch(IMAGES, torch.zeros(3)), torch.Generator().manual_seed(0))
    assert not torch.equal(trained.images, IMAGES)
    whole = mae(augment={"min_area": 1.0, "flip_prob": 1.0}, spec=make_spec(2, 8, 8)).train()
    square = IMAGES[..., :8]
    mirrored = whole.augment(Batch(square, torch.zeros(3)), torch.Generator().manual_seed(0)).images
    torch.testing.assert_close(mirrored, square.flip(3))  # nothing but the crop and the mirror


def test_another_network_is_refused():
    entry = {"method": "mae", "dataset": "digits", "encoder": {"network": "mlp"}, "train": {"steps": 1}}
    with pytest.raises(
        DeclarationError, match=r"^pretext\.a\.encoder: must be a network of patches' tokens \(vit\); got 'mlp'"
    ):
        resolve("pretext", "a", entry)


@pytest.mark.parametrize(
    ("vit", "numbers", "said"),
    [
        ({}, {"mask_ratio": 0.99}, r"mask_ratio 0\.99 of 8 patches leaves 0 visible"),
        ({}, {"mask_ratio": 0.01}, r"mask_ratio 0\.01 of 8 patches leaves 8 visible"),
        ({"dim": 12}, {}, r"multiple of 4 and of encoder\.num_heads, 2; got 6, half of encoder\.dim 12"),
        ({}, {"decoder_dim": 10}, r"multiple of 4 and of encoder\.num_heads, 2; got 10$"),
        ({"dim": 14}, {"decoder_dim": 8}, r"encoder\.dim must be a multiple of 4 .* got 14"),
    ],
)
def test_what_does_not_fit_is_refused(vit, numbers, said):
    with pytest.raises(ValueError, match=said):
        mae(vit, **numbers)


def test_a_patch_of_one_number_has_no_deviation():
    with pytest.raises(ValueError, match="normalise_targets needs patches of 2 numbers"):
        mae({"patch_size": 1}, make_spec(1, 8, 8), normalise_targets=True)
