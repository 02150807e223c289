import pytest
import torch
import torch.nn.functional as F
from specs import make_spec

from mlml import segmentation
from mlml.config import DeclarationError, parse
from mlml.data.batches import Batch
from mlml.supervised.segmenter import Segmenter

UNET = {"network": "unet", "width": 4, "num_stages": 2}
SEGNET = {
    "network": "convnet",
    "layers": [
        {"layer": "convolution", "channels": 4},
        {"layer": "max_pooling"},
        {"layer": "convolution", "channels": 4},
        {"layer": "unpooling"},
        {"layer": "convolution", "channels": 4},
    ],
}


def masked_spec(*shape):
    return make_spec(*(shape or (1, 8, 8)), mean=0.5, std=0.2).model_copy(update={"mask_classes": ("none", "a", "b")})


def segmenter(encoder=UNET, **numbers):
    torch.manual_seed(0)
    config = {"encoder": encoder, "train": {"steps": 1}, **numbers}
    return Segmenter(parse(Segmenter.Config, config, "supervised.s"), masked_spec())


def batch(images=6):
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(3, (images, 4, 4), generator=generator)
    masks = blocks.repeat_interleave(2, 1).repeat_interleave(2, 2)  # of two pixels, which a pooling by two keeps apart
    return Batch(masks[:, None] / 4 + 0.25, masks)  # an image tells its mask


@pytest.mark.parametrize("encoder", [UNET, SEGNET], ids=["unet", "convnet"])
def test_the_loss_and_the_metrics_are_those_of_the_pixels(encoder):
    method = segmenter(encoder).eval()
    scores = method.scores(batch().images)
    assert scores.shape == (6, 3, 8, 8)
    by_pixel = scores.permute(0, 2, 3, 1).reshape(-1, 3)
    output = method(batch(), "train")
    torch.testing.assert_close(output.loss, F.cross_entropy(by_pixel, batch().labels.flatten()))
    right = (scores.argmax(1) == batch().labels).double()
    assert output.metrics["pixel_accuracy"].item() == pytest.approx(right.mean().item())
    # of one image at a time, so the mean over batches of any size is that over images
    pairs = zip(*batch(), strict=True)
    single = [method(Batch(image[None], mask[None]), "train").metrics["mean_iou"] for image, mask in pairs]
    assert output.metrics["mean_iou"].item() == pytest.approx(torch.stack(single).mean().item())


def test_the_dice_loss_is_added_as_declared():
    plain, both = (segmenter(dice_weight=weight).eval() for weight in (0.0, 0.3))
    dice = segmentation.dice_loss(plain.scores(batch().images), batch().labels)
    torch.testing.assert_close(both(batch(), "t").loss, plain(batch(), "t").loss + 0.3 * dice)


def test_image_and_mask_move_alike():
    method = segmenter(augment={"padding": 3, "flip_prob": 0.5})
    moved = method.augment(batch(64), torch.Generator().manual_seed(0))
    assert moved.labels.dtype == torch.int64
    inside = moved.images[:, 0] > 0
    assert torch.equal(moved.labels[inside], ((moved.images[:, 0] - 0.25) * 4).round().long()[inside])
    assert not moved.labels[~inside].any()  # the background comes in at the edge
    assert 0.5 < inside.double().mean() < 0.9
    changed = (moved.labels != batch(64).labels).flatten(1).any(1)
    assert changed.sum() > 50
    still = method.eval().augment(batch(64), torch.Generator().manual_seed(0))
    assert all(torch.equal(one, other) for one, other in zip(still, batch(64), strict=True))


@pytest.mark.parametrize("encoder", [UNET, SEGNET], ids=["unet", "convnet"])
def test_it_learns_to_read_the_mask_off_the_image(encoder):
    method = segmenter(encoder)
    optimizer = torch.optim.Adam(method.parameters(), 0.02)
    for _ in range(60):
        loss = method(batch(), "train").loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert method(batch(), "train").metrics["mean_iou"] > 0.9
    assert method.encode(batch().images).shape == (6, method.feature_dim)


def test_networks_and_data_that_tell_nothing_of_pixels_are_refused():
    with pytest.raises(DeclarationError) as caught:
        segmenter({"network": "mlp"})
    assert caught.value.faults == (
        "supervised.s.encoder: must be a network that tells of every pixel (convnet, unet); got 'mlp'",
    )
    with pytest.raises(ValueError, match=r"^convnet: layer 2, the last, must leave a grid of the image's 8x8 pixels"):
        segmenter({**SEGNET, "layers": SEGNET["layers"][:2]})
    with pytest.raises(ValueError, match=r"^segmenter: needs masks, but the data set 'made' has none"):
        Segmenter(segmenter().config, make_spec())
