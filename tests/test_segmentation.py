import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlml import segmentation

CASES = settings(max_examples=60, deadline=None)


def case(seed, images=3, classes=4, height=3, width=5):
    """Scores and masks in which, often, a class is missing."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, classes, height, width, generator=generator, dtype=torch.float64)
    few = torch.randint(1, classes + 1, (images,), generator=generator)
    masks = torch.stack([torch.randint(int(n), (height, width), generator=generator) for n in few])
    return scores, masks


@CASES
@given(st.integers(0, 10**6))
def test_mean_iou_is_that_of_counting(seed):
    scores, masks = case(seed)
    predicted = scores.argmax(1)
    wanted = []
    for mask, guess in zip(masks.numpy(), predicted.numpy(), strict=True):
        ious = []
        for kind in range(4):
            either = int(((mask == kind) | (guess == kind)).sum())
            if either:
                ious.append(int(((mask == kind) & (guess == kind)).sum()) / either)
        wanted.append(np.mean(ious))
    confusions = segmentation.confusion(masks, predicted, 4)
    np.testing.assert_allclose(segmentation.mean_iou(confusions), wanted, rtol=1e-6)
    assert confusions.sum((1, 2)).tolist() == [15] * 3
    assert confusions[1, 2, 0] == ((masks[1] == 2) & (predicted[1] == 0)).sum()  # rows are the truth


def test_mean_iou_of_a_split_is_that_of_its_pixels_together():
    masks = torch.tensor([[[0, 0, 0, 0]], [[1, 1, 0, 0]]])
    predicted = torch.tensor([[[0, 0, 0, 1]], [[1, 0, 0, 0]]])
    confusions = segmentation.confusion(masks, predicted, 3)
    together = segmentation.mean_iou(confusions.sum(0, keepdim=True)).item()
    assert together == np.float32((5 / 7 + 1 / 3) / 2)  # class 2 is nowhere
    apart = segmentation.mean_iou(confusions).tolist()
    np.testing.assert_allclose(apart, [(3 / 4 + 0) / 2, (2 / 3 + 1 / 2) / 2], rtol=1e-6)


@CASES
@given(st.integers(0, 10**6))
def test_the_dice_loss_is_the_papers_sum_over_pixels(seed):
    scores, masks = case(seed)
    losses = []
    for values, mask in zip(scores.numpy(), masks.numpy(), strict=True):
        shares = np.exp(values) / np.exp(values).sum(0)
        dice = []
        for kind in np.unique(mask):
            p, g = shares[kind].ravel(), (mask == kind).ravel().astype(float)
            numerator = sum(2 * a * b for a, b in zip(p, g, strict=True))
            dice.append(numerator / (sum(a * a for a in p) + sum(b * b for b in g)))
        losses.append(1 - np.mean(dice))
    np.testing.assert_allclose(segmentation.dice_loss(scores, masks).item(), np.mean(losses), rtol=1e-5)


def test_the_dice_loss_ends_at_nothing():
    _, masks = case(3)
    right = 60.0 * torch.nn.functional.one_hot(masks, 4).permute(0, 3, 1, 2)
    assert segmentation.dice_loss(right, masks).item() < 1e-6
    assert segmentation.dice_loss(-right, masks).item() > 0.7
